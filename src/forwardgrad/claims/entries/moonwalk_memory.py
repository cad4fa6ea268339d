"""Mixed-mode Moonwalk holds less than backprop, and pays for it in time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.estimate import Method, Sink
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.testing.chains import coupled, patches, rings
from forwardgrad.testing.problems import Problem
from forwardgrad.train.threads import threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Two depths of each family: between them the bytes a layer; time and ratios at the second."""

    depths: tuple[int, int] = (21, 42)
    rows: int = 16
    anchors: int = 4
    rounds: int = 4


@threads(1)  # the clock is that of one thread, so that the work must be in it
def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Peak bytes above weights and batch, and processor time of one step, over those of backprop."""
    figures: dict[str, float] = {}
    series: dict[str, list[float]] = {}
    for family in ("patch", "coupling", "conv"):
        problems = [_net(family, depth, setting.rows, seed) for depth in setting.depths]
        ways = _ways(setting.anchors if family != "coupling" else None)
        for name, method in ways.items():
            tell(f"{family}, {name}")
            series[f"peak_{name}_{family}"] = [_peak(method, problem, name) for problem in problems]
        seconds = _seconds(ways, problems[-1], setting.rounds)
        series[f"seconds_{family}"] = list(seconds.values())
        for name in ways:
            peaks, rival = series[f"peak_{name}_{family}"], series[f"peak_backprop_{family}"]
            figures[f"peak_{name}_{family}"] = peaks[-1] / rival[-1]
            figures[f"time_{name}_{family}"] = seconds[name] / seconds["backprop"]
            # Layers more than the deeper net has that would fit into what backprop holds there.
            a_layer = max(peaks[-1] - peaks[0], 1.0) / (setting.depths[1] - setting.depths[0])
            figures[f"deeper_{name}_{family}"] = 1 + (rival[-1] - peaks[-1]) / a_layer / setting.depths[1]
    return Finding({name: min(value, 1e6) for name, value in figures.items()}, series)


def _net(family: str, depth: int, rows: int, seed: int) -> Problem:
    if family == "patch":
        return patches(depth, (12, 48, 96), 32, rows, seed=seed)
    if family == "coupling":
        return coupled(depth, 32, 8, rows, seed=seed)
    return rings(depth, 16, 8, rows, seed=seed)


def _ways(anchors: int | None) -> dict[str, Method]:
    return {
        "backprop": fg.Backprop(),
        "checkpointed": fg.CheckpointedBackprop(),
        "fused": fg.CheckpointedBackprop(fused=True),
        "moonwalk": fg.Moonwalk(anchors),
    }


def _peak(method: Method, problem: Problem, name: str) -> float:
    # Methods that hand out gradients layer by layer step at once; nothing is moved, so that both nets stay alike.
    sink: Sink = fg.Apply(_still) if name in ("fused", "moonwalk") else fg.Collect()
    with PeakBytes() as memory:
        fg.backward(method, *problem.arguments, into=sink)
    return float(memory.peak)


def _still(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.0)


def _seconds(ways: dict[str, Method], problem: Problem, rounds: int) -> dict[str, float]:
    """The least of several rounds, in turns, of this thread alone."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, method in ways.items():
            start = time.thread_time()
            fg.backward(method, *problem.arguments, into=fg.Collect())
            best[name] = min(best[name], time.thread_time() - start)
    return best


def draw(record: ClaimRecord) -> Figure:
    """Peak and time over backprop's, a column for each family of nets."""
    import matplotlib.pyplot as plt

    titles = {"patch": "Patches", "coupling": "Couplings", "conv": "Circular convolutions"}
    names = {
        "backprop": ("backprop", "#2b2b2b"),
        "checkpointed": ("checkpointed", "#a5a5a5"),
        "fused": ("update fused", "#6e6e6e"),
        "moonwalk": ("Moonwalk", "#0072B2"),
    }
    figures = {name: sum(values) / len(values) for name, values in record.figures().items()}
    figure, row = plt.subplots(1, 3, figsize=(10.4, 3.8), sharex=True, sharey=True)
    for axes, (family, title) in zip(row, titles.items(), strict=True):
        for name, (label, colour) in names.items():
            place = figures[f"time_{name}_{family}"], figures[f"peak_{name}_{family}"]
            axes.plot(*place, "o", color=colour, ms=11, mec="white")
            drop = -13 if name == "fused" else 7  # the two that checkpoint lie close to each other
            axes.annotate(label, place, (8, drop), textcoords="offset points", color=colour)
        axes.set(title=title, ylim=(0, 1.12), xlim=(0.8, 4.4))
        axes.set_xlabel("time, over backprop's", loc="left")
    row[0].set_ylabel("peak, over backprop's")
    return figure


CLAIM = Claim(
    id="moonwalk-memory",
    paper="2402.14212",
    sentence="Mixed-mode Moonwalk matches backpropagation's runtime while training networks more than twice as deep "
    "under the same memory budget.",
    published="backprop's runtime; more than twice as deep",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting((60, 120), 64)},
    seeds={"record": (0, 1, 2)},
    checks=(
        *(Check(f"peak_moonwalk_{family}", at_most=0.999) for family in ("patch", "coupling", "conv")),
        *(Check(f"deeper_moonwalk_{family}", at_least=2) for family in ("patch", "coupling", "conv")),
        *(Check(f"time_moonwalk_{family}", at_most=2.5) for family in ("patch", "coupling")),
    ),
    headline="peak over backprop's, and time: patches {peak_moonwalk_patch:.2f}, {time_moonwalk_patch:.1f}x "
    "(checkpointed and fused {peak_fused_patch:.2f}, {time_fused_patch:.1f}x); couplings {peak_moonwalk_coupling:.2f}, "
    "{time_moonwalk_coupling:.1f}x (fused {peak_fused_coupling:.2f}, {time_fused_coupling:.1f}x); circular "
    "convolutions {peak_moonwalk_conv:.2f}, {time_moonwalk_conv:.1f}x (fused {peak_fused_conv:.2f}, "
    "{time_fused_conv:.1f}x)",
    depends=(
        "forwardgrad.exact.moonwalk", "forwardgrad.exact.walk", "forwardgrad.exact.inverse",
        "forwardgrad.exact.rules.conv", "forwardgrad.exact.rules.circular", "forwardgrad.exact.rules.activation",
        "forwardgrad.exact.rules.coupling", "forwardgrad.methods.checkpointed", "forwardgrad.testing.chains",
    ),
    draw=draw,
)  # fmt: skip
