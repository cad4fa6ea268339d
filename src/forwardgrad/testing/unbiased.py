"""The mean of an estimate, by a z-test: fixed seeds, a fixed number of draws, a fixed bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from forwardgrad.estimate import Method
from forwardgrad.objective import Objective, Params
from forwardgrad.testing.draws import draws_of

_ROUNDING = 1e-7


def check_unbiased(
    method: Method,
    objective: Objective,
    params: Params,
    exact: Mapping[str, Tensor] | None = None,
    *,
    mean: float | Callable[[Tensor], Tensor] = 1.0,
    draws: int = 40,
    seeds: Sequence[int] = (0, 1, 2),
    bound: float = 5.5,
) -> None:
    r"""The mean of the estimate is what it is said to be: :math:`\mathbb E[\hat g] = C g`.

    .. math:: z = \sqrt N \, \frac{\langle u, \bar g - C g \rangle}{\mathrm{sd} \langle u, \hat g \rangle}

    for every coordinate direction u and for u along Cg, where a wrong scale shows most; for each seed by itself
    and for all of them together. No z may exceed the bound.

    Args:
        method: the method.
        objective: what it differentiates.
        params: where.
        exact: g; None to have it from backprop.
        mean: C, a factor or a function of the gradient [n] -> [n]; 1 for an unbiased method.
        draws: estimates per seed.
        seeds: at least one.
        bound: on |z|; at 5.5 fewer than one honest method in a thousand would fail, at any seeds.

    Raises:
        AssertionError: with the worst z, its direction, and the numbers.
    """
    estimates, g = draws_of(method, objective, params, exact, draws, seeds)
    expected = mean(g) if callable(mean) else mean * g
    length = max(float(expected.norm()), float(g.norm()))
    along = expected / max(float(expected.norm()), 1e-300)
    seen = torch.cat([estimates, (estimates @ along).unsqueeze(-1)], dim=-1)
    wanted = torch.cat([expected, (expected @ along).reshape(1)])
    looks = {f"seed {s}": part for s, part in zip(seeds, seen, strict=True)} | {"all seeds": seen.flatten(0, 1)}
    for look, values in looks.items():
        error = values.std(0) / len(values) ** 0.5 + _ROUNDING * length
        z = (values.mean(0) - wanted) / error
        worst = int(z.abs().argmax())
        where = "along the expected gradient" if worst == len(g) else f"in coordinate {worst}"
        seen_there = f"{float(values.mean(0)[worst]):.6g} +- {float(error[worst]):.2g}"
        assert abs(float(z[worst])) <= bound, (
            f"{method!r} is biased: over {len(values)} draws ({look}) its mean {where} is {seen_there}, "
            f"expected {float(wanted[worst]):.6g}: z = {float(z[worst]):.1f}, bound {bound}"
        )
