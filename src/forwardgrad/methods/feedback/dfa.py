"""Direct feedback alignment: the error goes back through fixed random matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.methods.feedback.row import local, per_sample, run
from forwardgrad.objective import Objective, Params, Sited, require
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key, Rademacher


@dataclass(frozen=True)
class DFA:
    r"""Direct feedback alignment with random signs.

    .. math:: \delta h_l = e B_l, \qquad B_l \in \{\pm N_l^{-1/2}\}^{O \times N_l}

    The matrices are drawn again at every step from their seed and never kept. Their rows have length 1, so that the
    signal is about as long as the error.

    Knows:     activations (a forward pass; the tape of one segment at a time)
    Cost:      3 forward passes, and a product per hidden activation with its feedback matrix
    Memory:    one forward pass, one segment's tape, the gradient, and one B_l of O x N_l at a time
    Bias:      all of the hidden gradient's, until the weights have aligned with B_l; last segment exact
    Variance:  0

    Args:
        seed: of the matrices.

    Raises:
        RungError: as `FDFA`.

    References:
        | Direct Feedback Alignment Provides Learning in Deep Neural Networks (Nokland, 2016), arXiv 1609.01596

    Note:
        Signs of one size in place of uniform numbers of a size found by hand.
    """

    seed: int = 0

    passport: ClassVar[Passport] = Passport(
        knows="activations (a forward pass; the tape of one segment at a time)",
        cost="3 forward passes, and a product per hidden activation with its feedback matrix",
        memory="one forward pass, one segment's tape, the gradient, and one B_l of O x N_l at a time",
        bias="all of the hidden gradient's, until the weights have aligned with B_l; last segment exact",
        variance="0",
        paper="Nokland 2016, arXiv 1609.01596",
        rung=2,
    )

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        net = require(self, objective, Sited)
        with torch.no_grad(), net.replaying():
            out = run(net, params)

            def signal(path: str, h: Tensor) -> Tensor:
                per_sample(path, h, out.error)
                B = random_signs(path, h, out.error.shape[1], self.seed).to(out.error)
                return (out.error @ B.flatten(1)).view_as(h)

            return local(net, params, signal, out, None)


def random_signs(path: str, h: Tensor, outputs: int, seed: int) -> Tensor:
    """B_l [O, *s_l] of signs over the root of N_l.

    Args:
        path: of the layer, which names the draw together with the seed.
        h: [B, *s_l].
        outputs: O.
        seed: of the draw.
    """
    like = h.new_empty(outputs, *h.shape[1:])
    return Rademacher()({path: like}, 1, Key(seed))[path].dense()[0] / like[0].numel() ** 0.5
