"""How many slopes a descent asks for: about n log(1/eps), however many of them are taken at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Quadratics in n dimensions, of condition number 1 and 4, from f = 1 down to eps; K up to n, judged up to n/4."""

    n: int = 256
    eps: float = 1e-3
    num_tangents: tuple[int, ...] = (1, 4, 16, 64, 256)
    draws: int = 2


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Slopes until f < eps over n log(1/eps), mean over draws, at the rate that the law calls best for each K."""
    flat = torch.ones(setting.n, dtype=torch.float64)
    ways = {"mean": (flat, "mean"), "project": (flat, "project")}
    ways["quadratic"] = (torch.linspace(0.25, 1, setting.n, dtype=torch.float64), "mean")
    figures: dict[str, float] = {}
    series: dict[str, list[float]] = {"num_tangents": list(map(float, setting.num_tangents))}
    unit = setting.n * log(1 / setting.eps)
    for name, (curvature, combine) in ways.items():
        series[name] = []
        for k in setting.num_tangents:
            asked = [
                descended(curvature, combine, k, setting.eps, setting.draws * seed + i) for i in range(setting.draws)
            ]
            series[name].append(sum(asked) / len(asked) / unit)
            tell(f"{name}, K = {k}: {series[name][-1]:.2f} n log(1/eps)")
        judged = [seen for seen, k in zip(series[name], setting.num_tangents, strict=True) if 4 * k <= setting.n]
        figures |= {f"{name}_least": min(judged), f"{name}_most": max(judged)}
        figures |= {f"{name}_spread": max(judged) / min(judged), f"{name}_last": series[name][-1]}
    return Finding(figures, series)


def descended(curvature: Tensor, combine: str, k: int, eps: float, seed: int) -> int:
    """Slopes taken until f = 1/2 sum_i a_i x_i^2, 1 at the start, is below eps."""
    value = lambda x: (curvature * x.square()).sum() / 2
    objective = fg.FunctionObjective(lambda p: value(p["x"]))
    method = fg.ForwardGradient(k, "gaussian", combine)
    # The mean: E f' = f - r |g|^2 + r^2/2 ((K + 1) g'Ag + tr A |g|^2)/K is least at this r. The projection: r = 1.
    rate = 1.0 if combine == "project" else k / float(curvature.sum() + (k + 1) * curvature.max())
    x, step = torch.ones_like(curvature), 0
    x = x / value(x).sqrt()
    while float(value(x)) > eps:
        x = x - rate * method(objective, {"x": x}, key=fg.Key(seed, step)).grad["x"]
        step += 1
    return k * step


def draw(record: ClaimRecord) -> Figure:
    """Slopes to the target over K, measured and by the laws."""
    import matplotlib.pyplot as plt
    import numpy as np

    n, ks = record.setting["n"], np.array(record.series("num_tangents")[0])
    names = {
        "mean": ("mean, on a sphere", "#D55E00"),
        "project": ("projection, on a sphere", "#0072B2"),
        "quadratic": ("mean, condition number 4", "#E69F00"),
    }
    fine = np.geomspace(1, n * 0.999, 200)
    figure, axes = plt.subplots(figsize=(7.6, 4.2))
    # A step takes f to f (1 - K/(n + K + 1)) by the mean, to f (1 - K/n) by the projection.
    axes.plot(fine, fine / n / np.log1p(fine / (n + 1)), color="#D55E00", lw=1.4, alpha=0.6)
    axes.plot(fine, fine / n / -np.log1p(-fine / n), color="#0072B2", lw=1.4, alpha=0.6)
    for name, (label, colour) in names.items():
        axes.plot(ks, np.mean(record.series(name), axis=0), "o", color=colour, ms=8, mec="white", label=label)
    axes.axvspan(n / 4, n, color="#f2f2f2", zorder=0)
    axes.annotate("K near n", (n / 4, 0), (6, 8), textcoords="offset points", color="#666666")
    axes.set(title="Slopes to the target, in n log(1/eps)", xscale="log", ylim=(0, None), xlim=(0.85, n * 1.18))
    axes.set_xticks(ks, [f"{k:.0f}" for k in ks])
    axes.minorticks_off()
    axes.set_xlabel(f"K tangents a step, n = {n}; lines: the laws on a sphere", loc="left")
    axes.legend(loc="upper left")
    return figure


CLAIM = Claim(
    id="multi-tangent-slopes",
    paper="2410.17764",
    sentence="More tangents make a step better and dearer in equal measure: a target asks for about n log(1/eps) "
    "slopes in all, whatever K.",
    published="",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(n=1024, num_tangents=(1, 4, 16, 64, 256, 1024), draws=4)},
    seeds={"record": (0, 1, 2)},
    checks=(
        *(Check(f"{name}_{end}", 0.8, 1.25) for name in ("mean", "project") for end in ("least", "most")),
        Check("quadratic_spread", at_most=1.25),
    ),
    headline="slopes over n log(1/eps) for K = 1 to n/4: mean {mean_least:.2f} to {mean_most:.2f}, projection "
    "{project_least:.2f} to {project_most:.2f}; of condition number 4 {quadratic_least:.2f} to {quadratic_most:.2f}; "
    "at K = n {mean_last:.2f}, {project_last:.2f} and {quadratic_last:.2f}",
    depends=("forwardgrad.combine", "forwardgrad.methods.forward"),
    draw=draw,
)
