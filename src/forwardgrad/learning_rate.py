"""A first learning rate for a noisy gradient: the one from backprop is too long by up to n/K."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from forwardgrad.errors import InputError
from forwardgrad.estimate import Method
from forwardgrad.module import ModuleObjective
from forwardgrad.slopes import wide
from forwardgrad.tangents import Key

_HALVINGS = 24


def suggest_lr(
    method: Method,
    model: nn.Module,
    loss_fn: Callable[..., Any],
    *batch: Any,
    probes: int = 4,
    safety: float = 0.5,
    params: Iterable[str | Tensor] | None = None,
    key: Key | None = None,
) -> float:
    r"""The rate for plain SGD at which one step, averaged over draws of the method, lowers this batch's loss most.

    .. math:: \eta = \text{safety} \cdot \arg\min_\eta \tfrac1P \sum_{p=1}^P f(\theta - \eta\, \hat g_p)

    over :math:`\eta = 2^{-i} |\theta| / |\hat g|`. A forward gradient is about :math:`\sqrt{n/K}` times longer than
    the gradient, and only its component along the gradient helps: for a quadratic that is equally curved in all
    directions the best rate is :math:`K/(n+K-1)` times backprop's, and more where few directions are steep. Nothing
    is changed: weights, buffers and generators are as they were.

    Args:
        method: any method.
        model: as for `fg.backward`.
        loss_fn: as for `fg.backward`.
        batch: a typical batch.
        probes: P, draws to average over; each costs one estimate and some twenty forward passes.
        safety: factor on the best rate; the loss of one batch is not the loss of all.
        params: as for `fg.backward`.
        key: replays the draws.

    Returns:
        The rate. With Adam, whose steps do not depend on the gradient's length, start from backprop's rate instead.

    Raises:
        InputError: probes < 1, safety <= 0, or no rate lowers the loss: the model is at a minimum, or the estimate is
            all noise.
    """
    if probes < 1:
        raise InputError("suggest_lr needs at least one probe", str(probes), "use 4 or more")
    if not 0 < safety < float("inf"):
        raise InputError("suggest_lr needs safety > 0", str(safety), "use about 0.5")
    objective = ModuleObjective(model, loss_fn, *batch, params=params)
    theta = {name: p.detach() for name, p in objective.params.items()}
    with objective.unchanged():
        key = key if key is not None else Key.draw()
        # Copies, for a method may remember what it saw.
        estimates = [copy.deepcopy(method)(objective, theta, key=Key(key.seed, key.step + p)) for p in range(probes)]
        with torch.no_grad():
            start = float(wide(objective(theta)))
            reach = length(theta.values()) or sum(p.numel() for p in theta.values()) ** 0.5  # a model may start at zero
            unit = reach / max(sum(length(e.grad.values()) for e in estimates) / probes, 1e-30)
            losses = {}
            for i in range(_HALVINGS):
                eta = unit * 2.0**-i
                losses[eta] = sum(_after(objective, theta, e.grad, eta) for e in estimates) / probes
                if len(losses) > 3 and _rising(list(losses.values()), start):
                    break
    best = min(losses, key=lambda eta: losses[eta])
    if not losses[best] < start:
        raise InputError(
            "suggest_lr needs a step that lowers the loss",
            f"none among {len(losses)} rates below {unit:.3g}",
            "use more tangents or more probes, or a batch on which the model is not already at its best",
        )
    return safety * best


def length(tensors: Iterable[Tensor]) -> float:
    """The norm of everything together."""
    return float(sum(float(torch.linalg.vector_norm(x)) ** 2 for x in tensors)) ** 0.5


def _after(objective: ModuleObjective, theta: dict[str, Tensor], grad: Any, eta: float) -> float:
    moved = {name: p if name not in grad else torch.add(p, grad[name], alpha=-eta) for name, p in theta.items()}
    loss = float(wide(objective(moved)))
    return loss if loss == loss else float("inf")


def _rising(losses: list[float], start: float) -> bool:
    """Whether smaller rates have stopped helping: the last two are worse than the best, which beats the start."""
    return min(losses) < start and losses[-1] > losses[-2] > min(losses)
