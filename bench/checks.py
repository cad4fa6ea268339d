"""Equal results first: no clock starts before every rival has given the same slopes and the same gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.draws import Factors, written_out
from bench.nets import Net
from bench.rivals import Rival

# |slope - <g, v>| / (|g| |v|) in float32.
TOLERANCE = 1e-6
# A step long enough for its rounding to be far below the gradient's, and a power of two.
_RATE = 1024.0


class Unequal(Exception):
    """A rival that computes something else: its time would mean nothing."""


def true_gradient(net: Net) -> dict[str, Tensor]:
    """By backprop, of the trainable parameters."""
    net.model.zero_grad(set_to_none=True)
    net.loss_fn(net.model, *net.batch).backward()
    grads = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in net.model.named_parameters()
        if p.requires_grad
    }
    net.model.zero_grad(set_to_none=True)
    return grads


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return sum(float(t.double().square().sum()) for t in tensors.values()) ** 0.5


def slope_errors(grads: Mapping[str, Tensor], draws: Mapping[str, Factors], slopes: Tensor) -> Tensor:
    """|slope_k - <g, v_k>| / (|g| |v_k|) for each tangent, in float64."""
    tangents = written_out(draws)
    errors = []
    for k, slope in enumerate(slopes.double()):
        dot = sum(float((grads[name].double() * t[k]).sum()) for name, t in tangents.items())
        length = _norm({name: t[k] for name, t in tangents.items()})
        errors.append(abs(float(slope) - dot) / (_norm(grads) * length))
    return torch.tensor(errors)


def _left_by(net: Net, rival: Rival) -> dict[str, Tensor | None]:
    """The gradient that a rival leaves in `p.grad`, or by which it moves the weights, which are put back."""
    params = {name: p for name, p in net.model.named_parameters() if p.requires_grad}
    if rival.moves is None:
        rival.gradient()
        return {name: p.grad for name, p in params.items()}
    before = {name: p.detach().clone() for name, p in params.items()}
    rival.moves(_RATE)
    with torch.no_grad():
        found = {name: (before[name] - p) / _RATE for name, p in params.items()}
        for name, p in params.items():
            p.copy_(before[name])
    return found


def check(net: Net, rivals: list[Rival], draws: Mapping[str, Factors]) -> dict[str, float]:
    """Each rival's error: of its slopes on the given tangents, or of its gradient.

    Args:
        net: model, loss and batch.
        rivals: what is to be timed.
        draws: the tangents they push.

    Raises:
        Unequal: at the first rival beyond its tolerance. Differences draw their own tangents: not compared.
    """
    grads = true_gradient(net)
    errors: dict[str, float] = {}
    for rival in rivals:
        if not rival.exact:
            continue
        if rival.slopes is not None:
            error, bound = float(slope_errors(grads, draws, rival.slopes()).max()), TOLERANCE
        else:
            found = _left_by(net, rival)
            gap = {n: found[n] - g for n, g in grads.items() if found[n] is not None}
            error, bound = _norm(gap) / _norm(grads), rival.tolerance
        if not error <= bound:
            raise Unequal(f"{rival.name} is off by {error:.1e}, more than {bound:.0e}: nothing is timed")
        errors[rival.name] = error
    net.model.zero_grad(set_to_none=True)
    return errors
