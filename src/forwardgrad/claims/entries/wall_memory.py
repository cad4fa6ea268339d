"""What training a wall model holds: a step on profiles, and a step through a solver of many time steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.func import functional_call

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.estimate import Method, Sink
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.probes import tape_bytes
from forwardgrad.train.tasks.channel import log_stress_error
from forwardgrad.wall_model import Channel, WallModel, uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Points of the wall in a batch of profiles; time steps of a channel of 24 cells, started from a flat profile."""

    points: int = 65_536
    widths: tuple[int, ...] = (16, 16)
    num_tangents: int = 16
    steps: tuple[int, ...] = (10, 100, 1000)


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Peak bytes over weights and batch of one gradient."""
    model = WallModel(setting.widths, generator=Generator().manual_seed(seed))
    figures: dict[str, float] = {}
    reynolds = torch.logspace(0, 4.5, setting.points)
    left = 0.05 * torch.sin(reynolds.log())
    for name, method in _ways(setting.num_tangents).items():
        sink: Sink = fg.Apply(lambda p: torch.optim.SGD(p, lr=0.0)) if name == "fused" else fg.Collect()
        with PeakBytes() as memory:
            fg.backward(method, model, log_stress_error, reynolds, left, into=sink, key=fg.Key(seed))
        figures[f"profile_{name}"] = memory.peak / 2**20
        tell(f"profiles, {name}: {figures[f'profile_{name}']:.1f} MiB")
    with tape_bytes(model) as tape:
        fg.backward(fg.ForwardGradient(), model, log_stress_error, reynolds, left, into=fg.Collect())
    figures["tape"] = tape()
    figures["profile_ratio"] = figures["profile_one"] / figures["profile_backprop"]

    unroll, weights = through_solver(model)
    ways: dict[str, Callable[[int], tuple[Method, fg.Unroll]]] = {
        "forward": lambda T: (fg.ForwardGradient(setting.num_tangents), replace(unroll, steps=T)),
        "backprop": lambda T: (fg.Backprop(), replace(unroll, steps=T)),
        "checkpointed": lambda T: (fg.Backprop(), replace(unroll, steps=T, segment=isqrt(T))),
    }
    series: dict[str, list[float]] = {"steps": [float(T) for T in setting.steps]}
    for name, make in ways.items():
        series[name] = []
        for steps in setting.steps:
            method, loop = make(steps)
            with PeakBytes() as memory:
                method(loop, weights, key=fg.Key(seed))
            series[name].append(memory.peak / 2**10)
            tell(f"{steps} time steps, {name}: {series[name][-1]:.0f} KiB")
        figures[f"solver_{name}"] = series[name][-1]
    figures["longest"] = setting.steps[-1]
    figures["growth"] = series["forward"][-1] / series["forward"][0]
    figures["solver_ratio"] = series["forward"][-1] / series["backprop"][-1]
    figures["solver_over_checkpointed"] = series["forward"][-1] / series["checkpointed"][-1]
    return Finding(figures, series)


def _ways(num_tangents: int) -> dict[str, Method]:
    return {
        "backprop": fg.Backprop(),
        "checkpointed": fg.CheckpointedBackprop(),
        "fused": fg.CheckpointedBackprop(fused=True),
        "forward": fg.ForwardGradient(num_tangents),
        "one": fg.ForwardGradient(num_tangents, chunk_size=1),
    }


def through_solver(model: WallModel) -> tuple[fg.Unroll, dict[str, Tensor]]:
    """The friction that a marching solver ends with, as a function of the model's weights.

    Args:
        model: gives the weights to start from.
    """
    model = model.double()
    still = Channel(uniform(24), 5e-5, model.stress, 2)
    dt, target = still.stable_step(still.steady()) / 2, 2.5e-3
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def channel(weights: Mapping[str, Tensor]) -> Channel:
        def stress(velocity: Tensor, height: Tensor, viscosity: float) -> Tensor:
            log_height = functional_call(model, dict(weights), (velocity * height / viscosity,))
            return (viscosity * log_height.exp() / height).square()

        return replace(still, stress=stress)

    def step(velocity: Tensor, weights: Mapping[str, Tensor], batch: None) -> Tensor:
        return channel(weights).advance(velocity, dt)

    def outer(velocity: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        return (channel(weights).wall_stress(velocity) / target).log().square()

    return fg.Unroll(step, torch.ones(24, dtype=torch.float64), outer, 1), weights


def draw(record: ClaimRecord) -> Figure:
    """Peaks over the number of time steps."""
    import matplotlib.pyplot as plt

    names = {"backprop": ("backprop", "#2b2b2b"), "checkpointed": ("checkpointed backprop", "#8a8a8a")}
    names["forward"] = ("forward gradient", "#0072B2")
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    for name, (label, colour) in names.items():
        axes.plot(record.series("steps")[0], record.series(name)[0], "o-", color=colour, label=label)
    axes.set(title="Peak of one gradient through the solver, KiB", xscale="log", yscale="log")
    axes.set_xlabel("time steps", loc="left")
    figure.legend(loc="outside right upper")
    return figure


CLAIM = Claim(
    id="wall-memory",
    paper="2311.11876",
    sentence="Forward gradients train a wall model in a single forward sweep and store no intermediates.",
    published="no stored intermediates (abstract)",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(steps=(10, 100, 1000, 10_000))},
    checks=(
        Check("tape", at_most=0),
        Check("profile_ratio", at_most=1),
        Check("growth", at_most=1.01),
        Check("solver_ratio", at_most=0.1),
        Check("solver_over_checkpointed", at_most=1),
    ),
    headline="a step on 65,536 points of the wall, MiB: K = 16 tangents at once {profile_forward:.1f}, one at a time "
    "{profile_one:.1f}, backprop {profile_backprop:.1f}, checkpointed {profile_checkpointed:.1f}, fused "
    "{profile_fused:.1f}; through {longest:.0f} time steps of a solver, KiB: K = 16 {solver_forward:.0f}, backprop "
    "{solver_backprop:.0f}, checkpointed {solver_checkpointed:.0f} (a fused update has nothing to spare: the "
    "gradient is 321 numbers)",
    depends=(
        "forwardgrad.methods.forward", "forwardgrad.methods.checkpointed", "forwardgrad.bilevel.unroll",
        "forwardgrad.bilevel.segment", "forwardgrad.wall_model.model", "forwardgrad.wall_model.law",
        "forwardgrad.wall_model.channel", "forwardgrad.train.tasks.channel",
    ),
    draw=draw,
)  # fmt: skip
