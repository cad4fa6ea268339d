"""A cheap biased phase first and (FG)^2U after it reach in fewer passes what the first alone never reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord

_DECAY = 0.3  # of the hyperparameters, in the outer loss: what a biased gradient weighs wrongly


@dataclass(frozen=True)
class Setting:
    """The first method may take `first` outer steps, (FG)^2U as many as are left; `rates` are tried by everyone."""

    first: int
    budget: float  # passes of the loop
    alone: float  # those of the first method by itself, which stalls long before
    target: float  # the excess over the least outer loss, as a share of that at the start
    rates: tuple[float, ...]
    num_tangents: int = 8
    steps: int = 30


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Passes of the loop until the target is met for good, each way at the best of the rates."""
    unroll, start, least = problem(setting.steps, seed)
    biased, unbiased = fg.Neumann(0), fg.ForwardGradient(setting.num_tangents, "rademacher")
    ways: dict[str, fg.TwoPhase] = {
        "first": fg.TwoPhase(biased, unbiased, steps=10**9),
        "second": fg.TwoPhase(biased, unbiased, steps=0),
        "both": fg.TwoPhase(biased, unbiased, steps=setting.first),
    }
    price = {True: 1 + 3 / setting.steps, False: 1.0 + 2 * setting.num_tangents}
    figures: dict[str, float] = {"target": setting.target}
    series: dict[str, list[float]] = {}
    for name, way in ways.items():
        runs = []
        for rate in setting.rates:
            tell(f"{name}, rate {rate:g}")
            budget = setting.alone if name == "first" else setting.budget
            runs.append(_descended(way, unroll, start, least, rate, budget, price, seed))
        passes, excess = min(runs, key=lambda run: (_reached(run, setting), run[1][-1]))
        figures[f"{name}_passes"], figures[f"{name}_excess"] = _reached((passes, excess), setting), excess[-1]
        series[f"{name}_passes"], series[f"{name}_excess"] = passes, excess
    figures["saved"] = figures["second_passes"] / figures["both_passes"]
    figures["stalls_at"] = figures["first_excess"] / setting.target
    alone = series["first_excess"]
    figures["still_falls"] = 1 - alone[-1] / alone[len(alone) // 2]  # in the second half of its steps
    return Finding(figures, series)


def problem(steps: int, seed: int) -> tuple[fg.Unroll, Tensor, float]:
    """24 forces on a chain of springs with eigenvalues from 1/5 to 1; which ones bring it to a given shape, cheaply?

    Returns:
        The loop, where to start, and the least outer loss there is (of the converged loop).
    """
    generator = Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    basis, n = torch.linalg.qr(draw(24, 24)).Q, 24
    stiffness = basis @ torch.diag(torch.linspace(0.2, 1, n, dtype=torch.float64)) @ basis.T
    shape = draw(n)

    def inner(w: Tensor, force: Tensor) -> Tensor:
        return w @ (stiffness @ w) / 2 - force @ w

    def outer(w: Tensor, hyper: Mapping[str, Tensor]) -> Tensor:
        return (w - shape).square().sum() / 2 + _DECAY * hyper["force"].square().sum() / 2

    step = lambda w, hyper, batch: w - fg.inner_gradient(inner)(w, hyper["force"])
    unroll = fg.Unroll(step, torch.zeros_like(shape), outer, steps)
    # w = M force with M = (I - (I - H)^T) H^-1, so that the best force solves (M M + decay) force = M shape.
    eye = torch.eye(n, dtype=torch.float64)
    moved = (eye - torch.linalg.matrix_power(eye - stiffness, steps)) @ torch.linalg.inv(stiffness)
    best = torch.linalg.solve(moved @ moved + _DECAY * eye, moved @ shape)
    return unroll, torch.zeros_like(shape), float(unroll({"force": best}))


def _descended(
    way: fg.TwoPhase, unroll: fg.Unroll, start: Tensor, least: float, rate: float, budget: float,
    price: Mapping[bool, float], seed: int,
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Passes spent and excess, step by step, until the budget is gone or the loss has left all bounds."""
    force, spent, first = start, 0.0, None
    passes: list[float] = []
    excess: list[float] = []
    for i in range(10**6):
        estimate = way(unroll, {"force": force}, key=fg.Key(seed, i))
        now = float(estimate.loss) - least
        first = now if first is None else first
        passes.append(spent)
        excess.append(now / first)
        if spent >= budget or now > 10 * first:
            break
        force = force - rate * estimate.grad["force"]
        spent += price[i < way.steps]
    return passes, excess


def _reached(run: tuple[list[float], list[float]], setting: Setting) -> float:
    """Passes after which the excess stays below the target; the budget doubled where it never does."""
    last = max((i for i, e in enumerate(run[1]) if e > setting.target), default=-1)
    return run[0][last + 1] if last + 1 < len(run[0]) else 2 * setting.budget


def draw(record: ClaimRecord) -> Figure:
    """The excess loss over passes of the loop, of the first seed.

    Args:
        record: of this claim.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    names = {"first": "Hessian-free", "second": "(FG)\u00b2U", "both": "first the one, then the other"}
    for (name, label), colour in zip(names.items(), ("#D55E00", "#8a8a8a", "#0072B2"), strict=True):
        points = zip(record.series(f"{name}_passes")[0], record.series(f"{name}_excess")[0], strict=True)
        # Below 1e-12 rounding alone is left; what has passed before the first point has no logarithm.
        passes, excess = zip(*(point for point in points if point[0] > 0 and point[1] > 1e-12), strict=True)
        axes.loglog(passes, excess, color=colour, label=label)
    axes.axhline(record.figures()["target"][0], color="#8a8a8a", linewidth=0.8, linestyle=":")
    axes.set(title="Outer loss above the least one, as a share of that at the start", xlim=(1, 2e4))
    axes.set_xlabel("passes of the loop", loc="left")
    axes.legend(loc="lower left")
    return figure


CLAIM = Claim(
    id="fg2u-two-phase",
    paper="2406.14095",
    sentence="A cheap biased hypergradient first and (FG)^2U after it is faster than (FG)^2U, and ends where the first "
    "alone does not.",
    published="phase one by Hessian-free hypergradients for 10 and 50 images a class (section on experiments)",
    experiment=experiment,
    settings={
        "quick": Setting(40, 2000, 200, 1e-3, (0.02, 0.05)),
        "record": Setting(40, 10_000, 400, 1e-4, (0.01, 0.02, 0.05, 0.1)),
    },
    checks=(Check("saved", at_least=1), Check("stalls_at", at_least=1), Check("still_falls", at_most=0.01)),
    headline="to {target:.2%} of the excess loss in {both_passes:.0f} passes of the loop, (FG)^2U alone in "
    "{second_passes:.0f}; Hessian-free alone stalls at {first_excess:.1%}",
    depends=(
        "forwardgrad.bilevel.unroll",
        "forwardgrad.forward_ad.inner",
        "forwardgrad.methods.forward",
        "forwardgrad.methods.hypergradient.neumann",
        "forwardgrad.methods.two_phase",
    ),
    draw=draw,
)
