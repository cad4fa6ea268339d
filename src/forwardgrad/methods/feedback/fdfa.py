"""Forward direct feedback alignment: feedback matrices learned from pushed tangents."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forwardgrad.errors import InputError
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.methods.backprop import averaged
from forwardgrad.methods.feedback.row import drawn, fitting, local, per_sample, run
from forwardgrad.methods.forward import check_options
from forwardgrad.objective import Objective, Params, Sited, require
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key, Sampler, sampler


class FDFA(nn.Module):
    r"""Direct feedback alignment whose matrices learn the net's mean Jacobian by forward gradients.

    .. math::
        d = \sum_l J_l\, p_l, \qquad
        \delta h_l = e B_l, \qquad
        B_l \leftarrow (1 - \alpha) B_l + \tfrac{\alpha}{B} \sum_i d_i \otimes p_{l,i}

    Every hidden activation h_l moves along random signs p_l in one push; d [B, O] is what arrives at the output, and
    since the p_l are independent :math:`\mathbb E[d \otimes p_l] = J_l`. The error e = dL/dy goes back through B_l,
    and each segment of the net, from one matrix to the next, is differentiated by itself.

    Knows:     activations (one push through the net; the tape of one segment at a time), and its own past
    Cost:      3 + K forward passes, and 1 + K products per hidden activation with its feedback matrix
    Memory:    one forward pass, K times its live activations, one segment's tape, the gradient, all B_l of O x N_l
    Bias:      that of the mean Jacobian in place of each sample's, and of B_l's way there; last segment exact
    Variance:  0 given B_l; that of B_l is alpha/(2 - alpha) times its estimate's, averaged over the batch

    Args:
        num_tangents: K >= 1.
        rate: alpha, in (0, 1].
        tangents: as for `ForwardGradient`.

    Raises:
        InputError: K < 1, a rate outside (0, 1], an unknown name; when called, matrices learned on another net.
        RungError: an objective without activations, layers that are not in a row, tied or called twice, a prediction
            that is not [B, ...], a loss that looks at parameters beside the prediction.

    References:
        | Low-Variance Forward Gradients using Direct Feedback Alignment and Momentum (Bacho and Chu, 2022),
          arXiv 2212.07282

    Note:
        The authors' code gives d p - B as a gradient to Adam; the momentum of the title is the average above. It keeps
        all activations, where here a second pass runs segment by segment and draws p_l again from its key. Signs in
        place of Gaussians have less variance. The first step has B_l = 0: only the last segment moves.
    """

    passport: ClassVar[Passport] = Passport(
        knows="activations (one push through the net; the tape of one segment at a time), and its own past",
        cost="3 + K forward passes, and 1 + K products per hidden activation with its feedback matrix",
        memory="one forward pass, K times its live activations, one segment's tape, the gradient, all B_l of O x N_l",
        bias="that of the mean Jacobian in place of each sample's, and of B_l's way there; last segment exact",
        variance="0 given B_l; that of B_l is alpha/(2 - alpha) times its estimate's, averaged over the batch",
        paper="Bacho and Chu 2022, arXiv 2212.07282",
        rung=2,
    )

    def __init__(self, num_tangents: int = 1, rate: float = 0.01, tangents: str | Sampler = "rademacher") -> None:
        super().__init__()
        check_options(num_tangents, 1.0, ())
        if not 0 < rate <= 1:
            raise InputError("rate needs to lie in (0, 1]", repr(rate), "use 0.01, an average over 100 steps")
        sampler(tangents)
        self.num_tangents, self.rate, self.tangents = num_tangents, rate, tangents
        self.feedback: dict[str, Tensor] = {}

    def forward(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        net = require(self, objective, Sited)
        key = key if key is not None else Key.draw()
        draw = drawn(sampler(self.tangents), self.num_tangents, key)
        learned: dict[str, Tensor] = {}
        with torch.no_grad(), net.replaying():
            out = run(net, params, draw, self.num_tangents)
            e, d = out.error, out.tangents

            def signal(path: str, h: Tensor) -> Tensor:
                p = torch.stack([per_sample(path, p, e) for p in draw(path, h)])  # [K, B, N]
                B = self.feedback.get(path, e.new_zeros(e.shape[1], *h.shape[1:]))
                B = fitting(path, B, e, h).flatten(1)
                jacobian = averaged(net, torch.einsum("kbo,kbn->on", d, p)) / (len(d) * len(e))
                learned[path] = torch.lerp(B, jacobian, self.rate).unflatten(1, h.shape[1:])
                return (e @ B).view_as(h)

            estimate = local(net, params, signal, out, key)
        self.feedback = {**self.feedback, **learned}
        return estimate

    def extra_repr(self) -> str:
        return f"num_tangents={self.num_tangents}, rate={self.rate}, tangents={self.tangents!r}"

    def get_extra_state(self) -> dict[str, Any]:
        """The feedback matrices, for `state_dict`."""
        return {"feedback": {path: B.clone() for path, B in self.feedback.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes the feedback matrices back from `state_dict`."""
        self.feedback = {path: B.clone() for path, B in state["feedback"].items()}
