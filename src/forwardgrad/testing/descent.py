"""Descent: steps along the estimate lower the loss."""

from __future__ import annotations

import copy

import torch

from forwardgrad.estimate import Method
from forwardgrad.gradient import FactoredGradient
from forwardgrad.objective import Objective, Params
from forwardgrad.tangents import Key


def check_descent(
    method: Method,
    objective: Objective,
    params: Params,
    *,
    rate: float,
    steps: int,
    at_most: float,
    seed: int = 0,
) -> None:
    r"""Plain steps :math:`\theta \leftarrow \theta - \eta \hat g` bring the loss down to a fraction of where it began.

    On :math:`\tfrac12|\theta - \theta^*|^2` an estimate with :math:`\mathbb E \hat g = m g` and
    :math:`\mathbb E|\hat g|^2 = s |g|^2` has its best rate at m/s, where each step multiplies the expected loss by
    :math:`1 - m^2/s`.

    Args:
        method: the method; what it remembers from step to step starts from a copy.
        objective: bounded below by zero.
        params: where to start.
        rate: eta.
        steps: how many.
        at_most: the loss at the end over the loss at the start.
        seed: step t has the key (seed, t).

    Raises:
        AssertionError: with the fraction reached.
    """
    ours, theta = copy.deepcopy(method), {name: p.detach().clone() for name, p in params.items()}
    with torch.no_grad():
        start = float(objective(theta))
        for t in range(steps):
            grad = ours(objective, theta, key=Key(seed, t)).grad
            dense = {n: g.densify() if isinstance(g, FactoredGradient) else g for n, g in grad.items()}
            theta = {n: p - rate * dense[n] if n in dense else p for n, p in theta.items()}
        end = float(objective(theta))
    assert end <= at_most * start, (
        f"{method!r} does not descend: {steps} steps of rate {rate:.3g} bring the loss from {start:.4g} to {end:.4g}, "
        f"expected at most {at_most * start:.4g}"
    )
