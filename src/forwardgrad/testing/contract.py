"""A row of the contract: a method, what is claimed of it, and the theorems that follow from the claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import ceil, inf, log

import torch
from torch import Tensor

from forwardgrad.estimate import Method
from forwardgrad.objective import Objective, Params
from forwardgrad.tangents import Key
from forwardgrad.testing.cost import check_cost, check_memory, check_tape
from forwardgrad.testing.descent import check_descent
from forwardgrad.testing.dtype import TOLERANCES, check_device, check_dtype
from forwardgrad.testing.exact import check_exact
from forwardgrad.testing.problems import Problem, bowl, net, tower
from forwardgrad.testing.replay import check_replay
from forwardgrad.testing.state import check_state
from forwardgrad.testing.unbiased import check_unbiased
from forwardgrad.testing.variance import check_projection, check_variance

_DESCENT = 1e-2  # the fraction to which the law brings the expected loss; one run may be ten times worse
_MOST_STEPS = 400


@dataclass(frozen=True)
class Contract:
    """What is claimed of a method. A claim left None is not tested.

    Args:
        name: of the row.
        make: makes the method; called once per theorem, so that nothing is remembered from one to the next.
        mean: E g_hat = mean * g, or mean(g), on the bowl.
        variance: E|g_hat - g|^2 / |g|^2 on the bowl.
        exact: relative distance to g of every estimate, for exact methods; mean and variance need no test then.
        projection: every estimate is an orthogonal projection of g.
        passes: the least and the most forward passes a step costs on the tower.
        peak: the least and the most bytes alive at once on a deep tower, over those of one forward pass.
        tape: the least and the most bytes that a step offers to the tape.
        dtypes: dtype -> relative distance to the float32 estimate on the net.
        buffers: how far a step may leave buffers from where one forward pass does, relative.
        draws_nothing: the method has no randomness.
        descends: steps along the estimate lower the bowl's loss, as far as mean and variance predict.
        rate: of these steps; None for the best one by that prediction. Given, 100 steps must lower the loss tenfold.
        draws: estimates per seed in the tests of mean and variance.
        point: objective and parameters in place of the bowl's, for methods of other objectives.
        net: the problem of the tests of dtype and state; may be called with the rate of its dropout. None for methods
            that take no module: then there are no tests of tape, cost and memory either.
        tower: that of the tests of cost, memory and tape; called with layers, width and rows.
    """

    name: str
    make: Callable[[], Method]
    mean: float | Callable[[Tensor], Tensor] | None = 1.0
    variance: float | None = None
    exact: float | None = None
    projection: bool = False
    passes: tuple[float, float] | None = None
    peak: tuple[float, float] | None = None
    tape: tuple[float, float] = (0, 0)
    dtypes: Mapping[torch.dtype, float] = field(default_factory=lambda: TOLERANCES)
    buffers: float = 0.0
    draws_nothing: bool = False
    descends: bool = True
    rate: float | None = None
    draws: int = 40
    point: Callable[[], tuple[Objective, Params]] = lambda: ((objective := bowl().objective), objective.params)
    net: Callable[..., Problem] | None = net
    tower: Callable[..., Problem] = tower


def theorems(row: Contract) -> dict[str, Callable[[], None]]:
    """The theorems that a row's claims call for, by name, each ready to be called; cuda's only where there is one.

    Args:
        row: the row.
    """
    found: dict[str, Callable[[], None]] = {}
    mean, variance, tolerance, passes, peak = row.mean, row.variance, row.exact, row.passes, row.peak
    point, net = row.point, row.net
    if tolerance is not None:
        found["exact"] = lambda: check_exact(row.make(), *point(), tolerance=tolerance)
    elif mean is not None:
        found["unbiased"] = lambda: check_unbiased(row.make(), *point(), mean=mean, draws=row.draws)
    if variance is not None:
        found["variance"] = lambda: check_variance(row.make(), *point(), factor=variance, draws=row.draws)
    if row.projection:
        found["projection"] = lambda: check_projection(row.make(), *point())
    if passes is not None:
        found["cost"] = lambda: check_cost(row.make(), *row.tower().arguments, passes=passes)
    if peak is not None:
        found["memory"] = lambda: check_memory(row.make(), *row.tower(24, 16, 4096).arguments, peak=peak)
    found["replay"] = lambda: check_replay(row.make(), *point(), other=None if row.draws_nothing else Key(4, 5))
    if row.descends:
        rate, steps, goal = _law(row)
        found["descent"] = lambda: check_descent(row.make(), *point(), rate=rate, steps=steps, at_most=goal)
    if net is None:
        return found
    least, most = row.tape
    found["tape"] = lambda: check_tape(row.make(), *row.tower(2, 16).arguments, at_least=least, at_most=most)
    found["dtype"] = lambda: check_dtype(row.make(), *net().arguments, tolerances=row.dtypes)
    found["state"] = lambda: check_state(row.make(), *net(dropout=0.3).arguments, buffers=row.buffers)
    if torch.cuda.is_available():
        found["device"] = partial(check_device, row.make(), *net().arguments)
    return found


def check_contract(row: Contract) -> None:
    """Every theorem that a row's claims call for.

    Args:
        row: the row.

    Raises:
        AssertionError: of the first theorem that fails, with its name.
    """
    for name, theorem in theorems(row).items():
        try:
            theorem()
        except AssertionError as failure:
            raise AssertionError(f"{row.name}, {name}: {failure}") from failure


def _law(row: Contract) -> tuple[float, int, float]:
    """Rate, steps and goal on the bowl: at the rate m/s each step multiplies the expected loss by 1 - m^2/s."""
    if row.rate is not None:
        return row.rate, 100, 0.1
    m = row.mean if isinstance(row.mean, (int, float)) else 1.0
    s = m * m if row.exact is not None or row.variance is None else row.variance - 1 + 2 * m
    factor = max(1 - m * m / s, 1e-12)
    steps = min(ceil(log(_DESCENT) / log(factor)), _MOST_STEPS)
    return m / s, steps, 10 * factor**steps + 1e-12


ANYTHING: tuple[float, float] = (1, inf)
"""A tape of at least one byte."""
