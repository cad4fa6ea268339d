"""The trained wall model inside a solver whose wall is not resolved: friction, profile, cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.claims.entries.wall_stress import Setting as Training
from forwardgrad.claims.entries.wall_stress import parts, train
from forwardgrad.train.tasks.channel import TESTED
from forwardgrad.train.tasks.profiles import Profile, read_all
from forwardgrad.train.threads import threads
from forwardgrad.wall_model import Channel, Reichardt, WallModel, stretched, uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Equal cells of the modelled channel; the stress is asked for at the centre of the third, y/delta = 0.104, and for
    comparison of the second to the sixth. The resolved wall has the fewest of `resolved` cells whose friction is within
    `close` of that on the most of them.
    """

    cells: int = 24
    cell: int = 2
    sweep: tuple[int, ...] = (1, 2, 3, 4, 5)
    resolved: tuple[int, ...] = (16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
    close: float = 0.01
    steps: int = 600


@threads(1)  # the clock is that of one thread, so that the work must be in it
def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Errors against the simulation at Re_tau = 1000 and the same bulk Reynolds number, and cell updates a turnover."""
    truth = read_all("channel")[TESTED]
    nu = 1 / (truth.bulk_velocity * truth.friction_reynolds)
    fine, cells = _resolved(setting, nu)
    channels = {"resolved": Channel(stretched(cells), nu)}
    for name, method in (("law", None), ("backprop", fg.Backprop()), ("forward", fg.ForwardGradient(16))):
        model = WallModel(generator=Generator().manual_seed(seed))
        if method is not None:
            train(model, method, parts(Reichardt()), Training(setting.steps), seed)
        channels[name] = Channel(uniform(setting.cells), nu, model.double().stress, setting.cell)
        tell(f"{name} trained")
    figures: dict[str, float] = {"resolved_cells": cells, "resolved_fine": abs(fine * truth.bulk_velocity**2 - 1)}
    series: dict[str, list[float]] = {}
    above = float(channels["forward"].heights[setting.cell])
    for name, channel in channels.items():
        figures |= {f"{name}_{what}": value for what, value in _judged(channel, truth, above).items()}
        series |= {f"{name}_y": channel.heights.tolist(), f"{name}_u": channel.steady().tolist()}
    sweep = {c: Channel(uniform(setting.cells), nu, channels["forward"].stress, c) for c in setting.sweep}
    series["sweep"] = [_judged(channel, truth, above)["friction"] for channel in sweep.values()]
    series |= {"sweep_y": [float(channel.heights[c]) for c, channel in sweep.items()]}
    figures["friction_worst_height"] = max(series["sweep"])
    figures["over_resolved"] = figures["forward_friction"] / figures["resolved_friction"]
    for what in ("cells", "updates", "seconds"):
        figures[f"{what}_ratio"] = figures[f"forward_{what}"] / figures[f"resolved_{what}"]
    series |= {"truth_y": truth.height.tolist(), "truth_u": (truth.velocity / truth.bulk_velocity).tolist()}
    return Finding(figures, series | {"nu": [nu]})


def _resolved(setting: Setting, nu: float) -> tuple[float, int]:
    """Friction on the finest grid, and how many cells come close to it."""
    friction = {}
    for cells in setting.resolved:
        channel = Channel(stretched(cells), nu)
        friction[cells] = float(channel.wall_stress(channel.steady()))
    fine = friction[setting.resolved[-1]]
    return fine, min(cells for cells, found in friction.items() if abs(found / fine - 1) <= setting.close)


def _judged(channel: Channel, truth: Profile, above: float) -> dict[str, float]:
    """Errors of friction (relative) and of velocities from `above` up (over the bulk velocity, rms); and the cost."""
    u, y = channel.steady(), channel.heights
    with torch.no_grad():
        stress = float(channel.wall_stress(u))
    known = np.interp(y, truth.height, truth.velocity / truth.bulk_velocity)
    off = (u - torch.from_numpy(known))[y >= above - 1e-9]
    steps = 1 / (stress**0.5 * channel.stable_step(u))  # of a turnover, delta / u_tau
    return {
        "friction": abs(stress * truth.bulk_velocity**2 - 1),
        "profile": float(off.square().mean().sqrt()),
        "cells": len(y),
        "updates": len(y) * steps,
        "seconds": steps * _seconds(channel, u),
    }


@torch.no_grad()
def _seconds(channel: Channel, u: Tensor) -> float:
    """Of one time step of this thread: the least of five runs of 40."""
    best = float("inf")
    for _ in range(5):
        start = time.thread_time()
        for _ in range(40):
            u = channel.advance(u, 1e-4)
        best = min(best, time.thread_time() - start)
    return best / 40


def draw(record: ClaimRecord) -> Figure:
    """Mean profiles in wall units, and the friction over the matching height."""
    import matplotlib.pyplot as plt

    names = {"resolved": ("wall resolved", "#8a8a8a"), "law": ("Reichardt's law", "#E69F00")}
    names["forward"] = ("trained by forward gradients", "#0072B2")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2), width_ratios=(1.6, 1))
    truth = torch.tensor([record.series("truth_y")[0], record.series("truth_u")[0]])
    left.plot(truth[0], truth[1], color="black", lw=2, label="simulation")
    for name, (label, colour) in names.items():
        u = torch.tensor(record.series(f"{name}_u"))
        left.plot(record.series(f"{name}_y")[0], u.mean(0), ".-", color=colour, lw=1, label=label)
    left.set(title="Velocity over bulk velocity, Re_tau = 1000", xscale="log", xlim=(5e-3, 1))
    left.set_xlabel("y / delta", loc="left")
    left.legend(loc="lower right")
    heights, errors = record.series("sweep_y")[0], 100 * torch.tensor(record.series("sweep"))
    right.plot(heights, errors.mean(0), "o-", color="#0072B2")
    right.fill_between(heights, errors.amin(0), errors.amax(0), color="#0072B2", alpha=0.2, lw=0)
    right.axhline(100 * record.figures()["resolved_friction"][0], color="#8a8a8a", label="wall resolved")
    right.set(title="Error of the friction, percent", ylim=(0, None))
    right.set_xlabel("matching height y / delta", loc="left")
    right.legend(loc="upper right", bbox_to_anchor=(1, 0.95))
    return figure


CLAIM = Claim(
    id="wall-channel",
    paper="2311.11876",
    sentence="A wall model trained by forward gradients can stand in for the resolution of the wall in a solver.",
    published="",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(steps=10_000)},
    seeds={"quick": (0, 1, 2), "record": (0, 1, 2, 3, 4)},
    checks=(
        Check("forward_friction", at_most=0.04),
        Check("over_resolved", at_most=1),
        Check("forward_profile", at_most=0.02),
        Check("cells_ratio", at_most=0.25),
    ),
    headline="error of the friction {forward_friction:.1%} and of the profile {forward_profile:.1%} (of the bulk "
    "velocity) on {forward_cells:.0f} cells; trained by backprop {backprop_friction:.1%} and {backprop_profile:.1%}, "
    "Reichardt's law {law_friction:.1%} and {law_profile:.1%}; wall resolved on {resolved_cells:.0f} cells "
    "{resolved_friction:.1%} and {resolved_profile:.1%}; explicit cell updates a turnover {forward_updates:,.0f} "
    "against {resolved_updates:,.0f}, {forward_seconds:.2f} s against {resolved_seconds:.1f} s",
    depends=(
        "forwardgrad.claims.entries.wall_stress", "forwardgrad.methods.forward", "forwardgrad.wall_model.model",
        "forwardgrad.wall_model.law", "forwardgrad.wall_model.channel", "forwardgrad.train.tasks.channel",
        "forwardgrad.train.tasks.profiles",
    ),
    draw=draw,
)  # fmt: skip
