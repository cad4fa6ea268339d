"""Pure-forward Moonwalk takes time linear in depth, where one slope per parameter takes quadratic time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from math import inf, log
from typing import TYPE_CHECKING

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.estimate import Method
from forwardgrad.flops import count_flops
from forwardgrad.testing.chains import rings
from forwardgrad.testing.problems import Problem
from forwardgrad.train.threads import threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Convolutions 3x3 of one width with leaky ReLUs, in float64; depth counts them, not the linear layer on top."""

    depths: tuple[int, ...] = (4, 8, 16, 24)
    channels: int = 8
    side: int = 2
    rows: int = 1
    chunk: int = 512
    rounds: int = 8
    naive_rounds: int = 1


@threads(1)  # the clock is that of one thread, so that the work must be in it
def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """FLOPs and processor time over depth, and the exponents fitted to them in log-log."""
    spent: dict[str, list[float]] = {f"{what}_{way}": [] for what in ("flops", "time") for way in ("moonwalk", "naive")}
    for depth in setting.depths:
        problem = rings(depth + 1, setting.channels, setting.side, setting.rows, seed=seed).doubled()
        n = sum(p.numel() for p in problem.model.parameters())
        ways: dict[str, Method] = {
            "moonwalk": fg.PureMoonwalk(setting.chunk, tolerance=inf),
            "naive": fg.ForwardGradient(n, "coordinate", chunk_size=setting.chunk),
        }
        for way, method in ways.items():
            rounds = setting.rounds if way == "moonwalk" else setting.naive_rounds
            tell(f"{depth} layers, {way}")
            spent[f"flops_{way}"].append(float(count_flops(partial(_step, method, problem)).products))
            spent[f"time_{way}"].append(min(_clock(method, problem) for _ in range(rounds)))
    figures = {name: _exponent(setting.depths, values) for name, values in spent.items()}
    figures["faster"] = spent["time_naive"][-1] / spent["time_moonwalk"][-1]
    figures["faster_at_first"] = spent["time_naive"][0] / spent["time_moonwalk"][0]
    return Finding(figures, {"depths": [float(d) for d in setting.depths]} | spent)


def _step(method: Method, problem: Problem) -> None:
    fg.backward(method, *problem.arguments, into=fg.Collect(), key=fg.Key(0))


def _clock(method: Method, problem: Problem) -> float:
    start = time.thread_time()  # of this thread alone: other work on the machine does not count
    _step(method, problem)
    return time.thread_time() - start


def _exponent(depths: tuple[int, ...], values: list[float]) -> float:
    """The least-squares slope in log-log."""
    xs, ys = [log(d) for d in depths], [log(v) for v in values]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def draw(record: ClaimRecord) -> Figure:
    """FLOPs and time over depth, with the fitted exponents."""
    import matplotlib.pyplot as plt

    depths = record.series("depths")[0]
    figures = {name: sum(values) / len(values) for name, values in record.figures().items()}
    names = {"naive": ("a slope per parameter", "#8a8a8a"), "moonwalk": ("pure-forward Moonwalk", "#0072B2")}
    figure, both = plt.subplots(1, 2, figsize=(9.6, 4.2))
    for axes, (what, title) in zip(both, {"flops": "Products", "time": "Seconds of one core"}.items(), strict=True):
        for way, (label, colour) in names.items():
            spent = record.series(f"{what}_{way}")[0]
            axes.loglog(depths, spent, color=colour, marker="o", label=label)
            power = f"depth^{figures[f'{what}_{way}']:.2f}"
            axes.annotate(power, (depths[-1], spent[-1]), (8, 0), textcoords="offset points", va="center",
                          color=colour)  # fmt: skip
        axes.set(title=f"{title} for a gradient", xlim=(depths[0] / 1.15, depths[-1] * 2.2))
        axes.set_xticks(depths, [f"{depth:.0f}" for depth in depths])
        axes.minorticks_off()
        axes.set_xlabel("convolutions", loc="left")
    both[0].legend(loc="upper left")
    return figure


CLAIM = Claim(
    id="moonwalk-linear-time",
    paper="2402.14212",
    sentence="The pure-forward form takes time linear in depth, where naive forward differentiation takes quadratic "
    "time.",
    published="linear against quadratic; several orders of magnitude faster",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting((4, 8, 16, 32, 64, 128))},
    seeds={"record": (0, 1, 2)},
    checks=(
        Check("flops_moonwalk", 0.9, 1.1),
        Check("flops_naive", 1.9, 2.1),
        Check("time_moonwalk", 0.8, 1.2),
        Check("time_naive", 1.8, 2.2),
    ),
    headline="exponent of depth: Moonwalk {flops_moonwalk:.2f} in FLOPs, {time_moonwalk:.2f} in time; naive "
    "{flops_naive:.2f} and {time_naive:.2f}; {faster_at_first:.0f} times faster at the least depth, {faster:.0f} times "
    "at the greatest",
    depends=(
        "forwardgrad.exact.pure", "forwardgrad.exact.walk", "forwardgrad.exact.rules.circular",
        "forwardgrad.methods.forward", "forwardgrad.testing.chains",
    ),
    draw=draw,
)  # fmt: skip
