"""Pure-forward Moonwalk takes time linear in depth, where one slope per parameter takes quadratic time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from math import inf, log

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.estimate import Method
from forwardgrad.flops import count_flops
from forwardgrad.testing.chains import rings
from forwardgrad.testing.problems import Problem
from forwardgrad.train.threads import threads


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
)  # fmt: skip
