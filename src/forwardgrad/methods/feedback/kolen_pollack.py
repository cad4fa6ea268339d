"""Direct Kolen-Pollack: feedback matrices that learn as a readout of each hidden activation would."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forwardgrad.errors import InputError
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.methods.backprop import averaged
from forwardgrad.methods.feedback.dfa import random_signs
from forwardgrad.methods.feedback.row import fitting, local, per_sample, run
from forwardgrad.objective import Objective, Params, Sited, require
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key


class DirectKolenPollack(nn.Module):
    r"""Direct feedback alignment whose matrices follow the update that a direct readout of h_l would have.

    .. math:: \delta h_l = e B_l, \qquad B_l \leftarrow (1 - \lambda) B_l - \eta\, e^\top h_l

    Of the last hidden activation the readout has the same update: there B_l nears the weights as decay lets both
    forget where they began. Deeper B_l learn a readout past the layers between, which is no Jacobian of the net.

    Knows:     activations (a forward pass; the tape of one segment at a time), and its own past
    Cost:      3 forward passes, and two products per hidden activation with its feedback matrix
    Memory:    one forward pass, one segment's tape, the gradient, and all B_l of O x N_l
    Bias:      that of a direct readout in place of the Jacobian; last segment exact
    Variance:  0

    Args:
        rate: eta > 0, as for SGD on the readout.
        decay: lambda in [0, 1).
        seed: of the first matrices, which are those of `DFA`.

    Raises:
        InputError: a rate or a decay out of range; when called, matrices learned on another net.
        RungError: as `FDFA`.

    References:
        | Learning the Connections in Direct Feedback Alignment (Webster, Choi and Ahn, 2020)

    Note:
        Plain SGD on B_l, whatever optimizer the weights have.
    """

    passport: ClassVar[Passport] = Passport(
        knows="activations (a forward pass; the tape of one segment at a time), and its own past",
        cost="3 forward passes, and two products per hidden activation with its feedback matrix",
        memory="one forward pass, one segment's tape, the gradient, and all B_l of O x N_l",
        bias="that of a direct readout in place of the Jacobian; last segment exact",
        variance="0",
        paper="Webster, Choi and Ahn 2020",
        rung=2,
    )

    def __init__(self, rate: float = 0.1, decay: float = 1e-4, seed: int = 0) -> None:
        super().__init__()
        if not rate > 0 or not 0 <= decay < 1:
            found = f"rate={rate!r}, decay={decay!r}"
            raise InputError("feedback needs a rate > 0 and a decay in [0, 1)", found, "use 0.1 and 1e-4")
        self.rate, self.decay, self.seed = rate, decay, seed
        self.feedback: dict[str, Tensor] = {}

    def forward(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        net = require(self, objective, Sited)
        learned: dict[str, Tensor] = {}
        with torch.no_grad(), net.replaying():
            out = run(net, params)
            e = out.error

            def signal(path: str, h: Tensor) -> Tensor:
                rows = per_sample(path, h, e)  # [B, N]
                kept = self.feedback.get(path)
                B = random_signs(path, h, e.shape[1], self.seed) if kept is None else kept
                B = fitting(path, B, e, h).flatten(1)
                step = self.rate * averaged(net, e.T @ rows)
                learned[path] = ((1 - self.decay) * B - step).unflatten(1, h.shape[1:])
                return (e @ B).view_as(h)

            estimate = local(net, params, signal, out, None)
        self.feedback = {**self.feedback, **learned}
        return estimate

    def extra_repr(self) -> str:
        return f"rate={self.rate}, decay={self.decay}, seed={self.seed}"

    def get_extra_state(self) -> dict[str, Any]:
        """The feedback matrices, for `state_dict`."""
        return {"feedback": {path: B.clone() for path, B in self.feedback.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes the feedback matrices back from `state_dict`."""
        self.feedback = {path: B.clone() for path, B in state["feedback"].items()}
