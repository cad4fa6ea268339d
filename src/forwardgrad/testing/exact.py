"""Exactness: the estimate is the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from forwardgrad.estimate import Method
from forwardgrad.objective import Objective, Params
from forwardgrad.testing.draws import draws_of


def check_exact(
    method: Method,
    objective: Objective,
    params: Params,
    exact: Mapping[str, Tensor] | None = None,
    *,
    tolerance: float = 1e-10,
    seeds: Sequence[int] = (0, 1, 2),
) -> None:
    r"""Every estimate is the gradient: :math:`|\hat g - g| \le \text{tolerance} \cdot |g|`.

    Args:
        method: the method.
        objective: what it differentiates.
        params: where.
        exact: g; None to have it from backprop.
        tolerance: relative.
        seeds: one estimate each.

    Raises:
        AssertionError: with the largest error.
    """
    estimates, g = draws_of(method, objective, params, exact, 1, seeds)
    error = float((estimates - g).norm(dim=-1).max() / g.norm())
    assert error <= tolerance, f"{method!r} is off the gradient by {error:.2g} |g|, tolerance {tolerance:.2g}"
