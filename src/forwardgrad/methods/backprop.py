"""Backpropagation: the exact gradient, and the yardstick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from forwardgrad.errors import LostTangentError
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.objective import Objective, Params, finite, scalar
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key


@dataclass(frozen=True)
class Backprop:
    r"""The exact gradient by reverse mode.

    .. math:: \hat g = \nabla f

    Knows:     a tape (every activation that a derivative needs)
    Cost:      about 3 forward passes
    Memory:    every activation, and a gradient as large as the model
    Bias:      0
    Variance:  0

    Raises:
        InputError: a loss that is not one number.
        LostTangentError: the loss depends on no parameter.

    References:
        | Learning representations by back-propagating errors (Rumelhart, Hinton, Williams, 1986)
    """

    passport: ClassVar[Passport] = Passport(
        knows="a tape (every activation that a derivative needs)",
        cost="about 3 forward passes",
        memory="every activation, and a gradient as large as the model",
        bias="0",
        variance="0",
        paper="Rumelhart, Hinton, Williams 1986",
        rung="tape",
    )

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        with torch.enable_grad():
            leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
            loss = scalar(objective(leaves))
            finite(loss.detach())
            grads = torch.autograd.grad(tracked(loss), list(leaves.values()), allow_unused=True)
        grad = {name: averaged(objective, g) for name, g in zip(leaves, grads, strict=True) if g is not None}
        return exact(objective, loss, grad)


def tracked(loss: Tensor) -> Tensor:
    """The loss, if a tape leads to it.

    Raises:
        LostTangentError: it does not.
    """
    if not loss.requires_grad:
        raise LostTangentError(
            "backprop needs the loss to depend on a parameter",
            "a loss without a tape",
            "remove .detach(), .item() or numpy between the parameters and the loss",
            path="loss",
        )
    return loss


def averaged(objective: Any, grad: Tensor) -> Tensor:
    """The gradient averaged over the ranks of a distributed objective; itself elsewhere."""
    average = getattr(objective, "average", None)
    return grad if average is None else average(grad)


def exact(objective: Any, loss: Tensor, grad: Mapping[str, Tensor]) -> Estimate:
    """The estimate of an exact method: no slopes, no key."""
    aux = getattr(objective, "aux", None)
    return Estimate(averaged(objective, loss.detach()), grad, loss.new_empty(0).detach(), None, aux)
