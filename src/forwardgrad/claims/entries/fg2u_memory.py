"""(FG)^2U keeps one state and its tangents, whatever T; reverse unrolling keeps T states, checkpointed some sqrt(T)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.flops import count_flops
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.train.threads import threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Lengths of the loop; reverse unrolling goes as far as `reverse` only, for its memory's sake.

    Peaks are those of a net of so many layers; what a step costs is measured on one of four.
    """

    steps: tuple[int, ...]
    reverse: int
    layers: int = 4
    num_tangents: int = 8
    width: int = 64


@threads(1)  # the clock is that of one thread, so that the work must be in it
def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Peak bytes over T of each way, and what a step with tangents costs in steps without."""
    unroll, hyper = problem(setting.width, seed, setting.layers)
    ways: dict[str, Callable[[int], tuple[fg.Method, fg.Unroll]]] = {
        "forward": lambda T: (fg.ForwardGradient(setting.num_tangents), replace(unroll, steps=T)),
        "reverse": lambda T: (fg.Backprop(), replace(unroll, steps=T)),
        "checkpointed": lambda T: (fg.Backprop(), replace(unroll, steps=T, segment=isqrt(T))),
    }
    peaks: dict[str, list[float]] = {name: [] for name in ways}
    for name, make in ways.items():
        for steps in setting.steps:
            if name == "forward" or steps <= setting.reverse:
                tell(f"{name}, T = {steps}")
                method, loop = make(steps)
                with PeakBytes() as memory:
                    method(loop, hyper, key=fg.Key(seed))
                peaks[name].append(memory.peak / 2**20)
    forward, reverse, checkpointed = peaks["forward"], peaks["reverse"], peaks["checkpointed"]
    last = len(reverse) - 1
    figures = {
        "forward_growth": forward[-1] / forward[0],
        "reverse_growth": reverse[last] / reverse[0],
        "forward_mib": forward[-1],
        "reverse_mib": reverse[last],
        "checkpointed_mib": checkpointed[last],
        "longest": setting.steps[-1],
        "longest_reverse": setting.steps[last],
    }
    unroll, hyper = problem(setting.width, seed)
    short = replace(unroll, steps=10)
    plain = lambda: short(hyper)
    with torch.no_grad():
        one, seconds = count_flops(plain), _seconds(plain)
    for k in (1, 8):
        work = lambda k=k: fg.ForwardGradient(k)(short, hyper, key=fg.Key(seed))
        figures[f"cost_{k}"] = count_flops(work).over(one)
        figures[f"time_{k}"] = _seconds(work) / seconds
    return Finding(figures, {"steps": setting.steps, **peaks})


def problem(width: int, seed: int, layers: int = 4) -> tuple[fg.Unroll, dict[str, Tensor]]:
    """A net of square layers trained with momentum; a rate and a decay for each tensor, a weight for each row."""
    generator = Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    x, classes = draw(64, width), torch.randint(width, (64,), generator=generator)
    theta = [draw(width, width) / width**0.5 for _ in range(layers)]

    def predict(p: list[Tensor]) -> Tensor:
        h = x
        for weight in p[:-1]:
            h = torch.tanh(F.linear(h, weight))
        return F.linear(h, p[-1])

    def inner(p: list[Tensor], weights: Tensor) -> Tensor:
        return (weights * F.cross_entropy(predict(p), classes, reduction="none")).mean()

    def step(state: list[list[Tensor]], hyper: Mapping[str, Tensor], batch: None) -> list[list[Tensor]]:
        p, momentum = state
        g = fg.inner_gradient(inner)(p, hyper["weights"].exp())
        momentum = [0.9 * m + d + hyper["decay"][i] * w for i, (m, d, w) in enumerate(zip(momentum, g, p, strict=True))]
        return [[w - hyper["rates"][i] * m for i, (w, m) in enumerate(zip(p, momentum, strict=True))], momentum]

    outer = lambda state, hyper: F.cross_entropy(predict(state[0]), classes.flip(0))
    start = [theta, [torch.zeros_like(weight) for weight in theta]]
    hyper = {"weights": torch.zeros(64), "rates": torch.full((layers,), 1e-3), "decay": torch.full((layers,), 1e-2)}
    return fg.Unroll(step, start, outer, 1), hyper


def _seconds(work: Callable[[], object]) -> float:
    def once() -> float:
        begin = time.thread_time()
        work()
        return time.thread_time() - begin

    return min(once() for _ in range(4))


def draw(record: ClaimRecord) -> Figure:
    """Peaks over the length of the loop."""
    import matplotlib.pyplot as plt

    names = {
        "reverse": ("reverse", "#2b2b2b"),
        "checkpointed": ("reverse, checkpointed", "#8a8a8a"),
        "forward": (f"forward, K = {record.setting['num_tangents']}", "#0072B2"),
    }
    steps = record.setting["steps"]
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    for name, (label, colour) in names.items():
        peaks = torch.tensor(record.series(name)).mean(0)
        axes.plot(steps[: len(peaks)], peaks, color=colour, marker="o", label=label)
    axes.set(title="Peak of one hypergradient, MiB", xscale="log", yscale="log", ylim=(1, None))
    axes.set_xticks(steps, [f"{t:,}" for t in steps])
    axes.set_yticks((1, 3, 10, 30, 100), ("1", "3", "10", "30", "100"))
    axes.minorticks_off()
    axes.set_xlabel("inner steps T", loc="left")
    axes.legend(loc="upper left")
    return figure


CLAIM = Claim(
    id="fg2u-memory",
    paper="2406.14095",
    sentence="The memory of forward unrolling does not grow with the number T of inner steps.",
    published="O(K M) for K directions and M inner parameters, against O(T M) in reverse (section 3)",
    experiment=experiment,
    settings={
        "quick": Setting((10, 100, 300, 10_000), 300, layers=1),
        "record": Setting((10, 100, 1000, 10_000), 1000),
    },
    checks=(Check("forward_growth", at_most=1.01), Check("reverse_growth", at_least=10)),
    headline="peak at T = {longest:.0f} over T = 10: {forward_growth:.3f}, at {forward_mib:.1f} MiB; at T = "
    "{longest_reverse:.0f} reverse {reverse_mib:.0f} MiB, checkpointed {checkpointed_mib:.1f} MiB; a step with 1 and 8 "
    "directions costs {cost_1:.1f} and {cost_8:.1f} steps in products ({time_1:.1f} and {time_8:.1f} in time); a fused "
    "update has nothing to spare: the gradient is some 70 numbers",
    depends=("forwardgrad.bilevel.unroll", "forwardgrad.bilevel.segment", "forwardgrad.forward_ad.inner"),
    draw=draw,
)
