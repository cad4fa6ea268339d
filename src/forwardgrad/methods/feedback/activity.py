"""Activity-perturbed forward gradients: slopes per sample along directions of the hidden activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.methods.feedback.row import drawn, local, per_sample, run
from forwardgrad.methods.forward import check_options
from forwardgrad.objective import Objective, Params, Sited, require
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key, Sampler, sampler


@dataclass(frozen=True)
class ActivityPerturbed:
    r"""Forward gradient with respect to hidden activations, from one slope per sample.

    .. math:: c_i^k = e_i \cdot \sum_l J_{l,i}\, p_{l,i}^k, \qquad \delta h_{l,i} = \tfrac1K \sum_k c_i^k\, p_{l,i}^k

    Every hidden activation of every sample moves along random signs in one push. Unbiased, since the directions are
    independent; there are as many unknowns as hidden units, not as weights, and each sample is a draw of its own.

    Knows:     activations (one push through the net; the tape of one segment at a time)
    Cost:      3 + K forward passes
    Memory:    one forward pass and K times its live activations, one segment's tape, and the gradient
    Bias:      0 where samples do not meet (BatchNorm in training mode mixes them); last segment exact
    Variance:  about (N - 1)/K per sample in the hidden signals, N hidden units, averaged over the batch

    Args:
        num_tangents: K >= 1.
        tangents: as for `ForwardGradient`.

    Raises:
        InputError: K < 1, an unknown name.
        RungError: as `FDFA`.

    References:
        | Scaling Forward Gradient With Local Losses (Ren et al., 2022), section 3, arXiv 2210.03310

    Note:
        No local losses here, which the paper adds. It perturbs before the nonlinearity and drops what does not get
        through; here it is perturbed behind it, and the local derivative does the same.
    """

    num_tangents: int = 1
    tangents: str | Sampler = "rademacher"

    passport: ClassVar[Passport] = Passport(
        knows="activations (one push through the net; the tape of one segment at a time)",
        cost="3 + K forward passes",
        memory="one forward pass and K times its live activations, one segment's tape, and the gradient",
        bias="0 where samples do not meet (BatchNorm in training mode mixes them); last segment exact",
        variance="about (N - 1)/K per sample in the hidden signals, N hidden units, averaged over the batch",
        paper="Ren et al. 2022, section 3, arXiv 2210.03310",
        rung=2,
    )

    def __post_init__(self) -> None:
        check_options(self.num_tangents, 1.0, ())
        sampler(self.tangents)

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        net = require(self, objective, Sited)
        key = key if key is not None else Key.draw()
        draw = drawn(sampler(self.tangents), self.num_tangents, key)
        with torch.no_grad(), net.replaying():
            out = run(net, params, draw, self.num_tangents)
            c = torch.einsum("bo,kbo->kb", out.error, out.tangents) / self.num_tangents

            def signal(path: str, h: Tensor) -> Tensor:
                per_sample(path, h, out.error)
                return torch.einsum("kb,kb...->b...", c, draw(path, h).to(c))

            return local(net, params, signal, out, key)
