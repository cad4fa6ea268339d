"""What K Gaussian tangents know of a gradient, to three digits: squared length, error and cosine by the formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, lgamma
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor, nn

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.testing.draws import flat
from forwardgrad.testing.problems import cross_entropy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Tangents in all, the same for every K, shared out over estimates of K; the net has n = 92 parameters."""

    tangents: int
    num_tangents: tuple[int, ...] = (1, 4, 16, 64)
    draw: int = 2**15


Law = Callable[[int, int], float]
# By name: what is expected of n and K for Gaussian tangents, |g| = 1.
LAWS: Mapping[str, Law] = {
    "mean_length": lambda n, k: (n + k + 1) / k,
    "mean_error": lambda n, k: (n + 1) / k,
    "mmse_error": lambda n, k: (n + 1) / (n + k + 1),
    "project_length": lambda n, k: k / n,
    "project_error": lambda n, k: 1 - k / n,
    "project_cosine": lambda n, k: _chi(k) / _chi(n),
}


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Means over draws, over their laws; the standard errors of these ratios; and whether the library's pushes agree.

    Slopes are products with a gradient known from autograd, since millions are wanted: the estimates of the library,
    from pushes, are compared with these one by one for some draws.
    """
    objective, g = problem(seed)
    n = len(g)
    found = {(name, k): torch.zeros(3, dtype=torch.float64) for name in LAWS for k in setting.num_tangents}
    for draw in range(setting.tangents // setting.draw):
        v = fg.Gaussian()({"theta": g}, setting.draw, fg.Key(seed, draw))["theta"].dense()
        for k in setting.num_tangents:
            for name, values in estimates(v.view(-1, k, n), g).items():
                found[name, k] += torch.stack([torch.ones(()), values.mean(), values.square().mean()])
        if draw % 8 == 0:
            tell(f"{(draw + 1) * setting.draw:,} of {setting.tangents:,} tangents")
    figures, series = {}, {"num_tangents": list(map(float, setting.num_tangents)), "n": [float(n)]}
    for name, law in LAWS.items():
        series[name], series[f"{name}_se"] = [], []
        for k in setting.num_tangents:
            count, total, squares = found[name, k].tolist()
            mean = total / count
            spread = max(squares / count - mean**2, 0.0) / (setting.tangents // k)
            series[name].append(mean)
            series[f"{name}_se"].append(spread**0.5)
        laws = [law(n, k) for k in setting.num_tangents]
        figures[name] = max(abs(seen / known - 1) for seen, known in zip(series[name], laws, strict=True))
    figures["standard_error"] = max(
        error / seen for name in LAWS for error, seen in zip(series[f"{name}_se"], series[name], strict=True)
    )
    figures["library_gap"] = max(gap(objective, g, k, seed) for k in setting.num_tangents)
    return Finding(figures, series)


def problem(seed: int) -> tuple[fg.ModuleObjective, Tensor]:
    """A small net in float64, and its gradient of length 1."""
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    x, y = torch.randn(32, 6, generator=generator, dtype=torch.float64), torch.randint(4, (32,), generator=generator)
    probe = fg.ModuleObjective(model, cross_entropy, x, y)
    size = float(flat(fg.Backprop()(probe, probe.params).grad, probe.params).norm())
    objective = fg.ModuleObjective(model, lambda net, x, y: cross_entropy(net, x, y) / size, x, y)
    return objective, flat(fg.Backprop()(objective, objective.params).grad, objective.params)


def estimates(v: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Squared length, squared error and cosine of estimates of g [n], each from K tangents of v [draws, K, n]."""
    n, k = v.shape[2], v.shape[1]
    c, gram = v @ g, v @ v.transpose(1, 2)
    # |mean|^2 = c'Gc/K^2 and <mean, g> = c'c/K; the projection has |Pg|^2 = <Pg, g> = c'G^-1 c.
    length, along = torch.einsum("dj,djk,dk->d", c, gram, c) / k**2, c.square().sum(1) / k
    within = torch.cholesky_solve(c[..., None], torch.linalg.cholesky(gram))[..., 0].mul(c).sum(1)
    shrunk = k / (n + k + 1)
    return {
        "mean_length": length,
        "mean_error": length - 2 * along + 1,
        "mmse_error": shrunk**2 * length - 2 * shrunk * along + 1,
        "project_length": within,
        "project_error": 1 - within,
        "project_cosine": within.sqrt(),
    }


def gap(objective: fg.ModuleObjective, g: Tensor, k: int, seed: int) -> float:
    """The largest difference between what pushes give and what `estimates` gives from the same tangents, relative."""
    worst = 0.0
    for draw in range(4):
        key = fg.Key(seed, draw)
        v = fg.Gaussian()(objective.params, k, key)
        wanted = estimates(torch.cat([kind.dense().flatten(1) for kind in v.values()], 1)[None], g)
        for name, options in (("mean", {}), ("mmse", {"scale": "mmse"}), ("project", {"combine": fg.Project(1e-13)})):
            grad = fg.ForwardGradient(k, "gaussian", **options)(objective, objective.params, key=key).grad
            error = float((flat(grad, objective.params) - g).square().sum())
            worst = max(worst, abs(error / float(wanted[f"{name}_error"]) - 1))
    return worst


def _chi(n: int) -> float:
    """E|v| of n standard normal numbers, over sqrt 2."""
    return exp(lgamma((n + 1) / 2) - lgamma(n / 2))


def draw(record: ClaimRecord) -> Figure:
    """What was measured on the curves of the laws; and how far off it is, with standard errors."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    ks, n = np.array(record.series("num_tangents")[0]), int(record.series("n")[0][0])
    names = {
        "mean_error": ("mean: (n + 1)/K", "#D55E00"),
        "mmse_error": ("mean, shrunk: (n + 1)/(n + K + 1)", "#E69F00"),
        "project_error": ("projection: 1 - K/n", "#0072B2"),
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2), width_ratios=(1.15, 1))
    for place, (name, (label, colour)) in enumerate(names.items()):
        law, fine = LAWS[name], np.linspace(1, ks[-1], 200)
        seen = np.mean(record.series(name), axis=0)
        left.plot(fine, [law(n, k) for k in fine], color=colour, lw=1.6, label=label)
        left.plot(ks, seen, "o", color=colour, ms=7, mec="white")
        known = np.array([law(n, int(k)) for k in ks])
        bars = 100 * np.mean(record.series(f"{name}_se"), axis=0) / known
        at = ks * 1.12 ** (place - 1)
        right.errorbar(at, 100 * (seen / known - 1), bars, fmt="o", color=colour, ms=5, lw=1.6)
    left.set(title="Squared error over |g|²", xscale="log", yscale="log")
    left.legend(loc="upper right")
    right.axhspan(-0.5, 0.5, color="#f2f2f2", zorder=0)
    right.axhline(0, color="#8a8a8a", lw=1)
    right.set(title="Measured off the law, in percent", xscale="log", ylim=(-0.8, 0.8))
    right.annotate("three digits", (ks[0] / 1.2, 0.5), (0, -12), textcoords="offset points", color="#666666")
    left.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    for axes in (left, right):
        axes.set_xticks(ks, [f"{k:.0f}" for k in ks])
        axes.minorticks_off()
        axes.set_xlabel(f"K tangents, n = {n} parameters", loc="left")
    return figure


CLAIM = Claim(
    id="multi-tangent-laws",
    paper="2410.17764",
    sentence="More tangents bring the estimate nearer to the gradient: its squared length, error and cosine follow "
    "closed formulas in n and K, for the mean and for the orthogonal projection.",
    published="",
    experiment=experiment,
    settings={"quick": Setting(2**21), "record": Setting(2**25)},
    seeds={"record": (0, 1)},
    # Three digits: within half a percent of the formula at every K, and a standard error that could tell.
    checks=(
        *(Check(name, at_most=5e-3) for name in LAWS),
        Check("standard_error", at_most=2e-3),
        Check("library_gap", at_most=1e-9),
    ),
    headline="largest deviation over K = 1 to 64: mean {mean_length:.2%} in squared length and {mean_error:.2%} in "
    "error, shrunk {mmse_error:.2%}, projection {project_length:.2%}, {project_error:.2%} and in cosine "
    "{project_cosine:.2%}; standard errors up to {standard_error:.2%}",
    depends=("forwardgrad.combine", "forwardgrad.tangents.gaussian", "forwardgrad.methods.forward"),
    draw=draw,
)
