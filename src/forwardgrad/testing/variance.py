"""The variance of an estimate against its formula, and the identity that makes an estimate a projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from forwardgrad.estimate import Method
from forwardgrad.objective import Objective, Params
from forwardgrad.testing.draws import draws_of

_ROUNDING = 1e-6


def check_variance(
    method: Method,
    objective: Objective,
    params: Params,
    exact: Mapping[str, Tensor] | None = None,
    *,
    factor: float,
    draws: int = 40,
    seeds: Sequence[int] = (0, 1, 2),
    bound: float = 5.0,
) -> None:
    r"""The mean squared error is what it is said to be: :math:`\mathbb E|\hat g - g|^2 = \text{factor} \cdot |g|^2`.

    With n parameters and K tangents the factor is (n - 1)/K for signs and for the sphere, (n + 1)/K for Gaussian
    tangents, n/K - 1 for orthonormal ones and single coordinates, 1 - K/n for a projection, and 1 - 1/s for the
    mean shrunk by 1/s, where s = E|mean|^2 / |g|^2.

    Args:
        method: the method.
        objective: what it differentiates.
        params: where.
        exact: g; None to have it from backprop.
        factor: what is expected.
        draws: estimates per seed.
        seeds: at least one.
        bound: on the distance to the factor, in standard errors.

    Raises:
        AssertionError: with the factor seen and its standard error.
    """
    estimates, g = draws_of(method, objective, params, exact, draws, seeds)
    errors = ((estimates - g).square().sum(-1) / g.square().sum()).flatten()
    seen, error = float(errors.mean()), float(errors.std()) / len(errors) ** 0.5 + _ROUNDING * (1 + factor)
    z = (seen - factor) / error
    assert abs(z) <= bound, (
        f"{method!r} has a mean squared error of {seen:.5g} |g|^2 (+- {error:.2g}, {len(errors)} draws), "
        f"expected {factor:.5g} |g|^2: z = {z:.1f}, bound {bound}"
    )


def check_projection(
    method: Method,
    objective: Objective,
    params: Params,
    exact: Mapping[str, Tensor] | None = None,
    *,
    tolerance: float = 1e-8,
    draws: int = 5,
    seeds: Sequence[int] = (0, 1, 2),
) -> None:
    r"""Every estimate is an orthogonal projection of the gradient: :math:`\langle \hat g, g \rangle = |\hat g|^2`.

    Args:
        method: the method.
        objective: what it differentiates.
        params: where.
        exact: g; None to have it from backprop.
        tolerance: on the difference of the two sides, relative to |g|^2.
        draws: estimates per seed.
        seeds: at least one.

    Raises:
        AssertionError: with the largest difference, or where the estimate is zero.
    """
    estimates, g = draws_of(method, objective, params, exact, draws, seeds)
    size = float(g.square().sum())
    gap = float((estimates @ g - estimates.square().sum(-1)).abs().max()) / size
    assert gap <= tolerance, (
        f"{method!r} is no orthogonal projection: <g_hat, g> and |g_hat|^2 differ by {gap:.2g} |g|^2, "
        f"bound {tolerance:.2g}"
    )
    assert float(estimates.square().sum(-1).min()) > 0, f"{method!r} projects the gradient onto nothing"
