"""Lemma 3.1 of (FG)^2U: the hypergradient's variance is (N - 1)/K, whatever the loop, and its mean is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Directions in all, measured 256 at a time and shared out over estimates of K, which divides 256; N = 66
    hyperparameters, T steps with momentum.
    """

    directions: int
    steps: int = 20
    num_tangents: tuple[int, ...] = (1, 4, 16)


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Squared errors of estimates of K directions over the law, and the error of the mean over all."""
    unroll, hyper = problem(setting.steps, seed)
    exact = _flat(fg.Backprop()(unroll, hyper).grad, hyper)
    n, groups = len(exact), setting.directions // 256
    total, squared = torch.zeros_like(exact), dict.fromkeys(setting.num_tangents, 0.0)
    for step in range(groups):
        estimate = fg.ForwardGradient(256, "rademacher")(unroll, hyper, key=fg.Key(seed, step))
        v = fg.Rademacher()(hyper, 256, fg.Key(seed, step)).dense()
        single = estimate.slopes[:, None] * torch.cat([v[name].flatten(1) for name in hyper], 1)
        total += single.sum(0)
        for k in setting.num_tangents:
            squared[k] += float((single.view(-1, k, n).mean(1) - exact).square().sum(1).mean())
        tell(f"{256 * (step + 1)} of {setting.directions} directions")
    errors = [float(squared[k] / groups / exact.square().sum()) for k in setting.num_tangents]
    law = [(n - 1) / k for k in setting.num_tangents]
    figures = {f"over_law_{k}": e / x for k, e, x in zip(setting.num_tangents, errors, law, strict=True)}
    mean = (total / (256 * groups) - exact).square().sum() / exact.square().sum()
    figures["mean_over_law"] = float((mean * 256 * groups / (n - 1)) ** 0.5)
    figures["mean_error"] = float(mean**0.5)
    return Finding(figures, {"num_tangents": setting.num_tangents, "error": errors, "law": law})


def problem(steps: int, seed: int) -> tuple[fg.Unroll, dict[str, Tensor]]:
    """Weights of rows and rates of tensors, for a small net trained with momentum; float64."""
    generator = Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    x, y, seen, wanted = draw(60, 6), draw(6, 3), draw(40, 6), draw(40, 3) / 3
    classes = (x @ y).argmax(1)
    theta = {"w": draw(8, 6) / 6**0.5, "b": draw(8) / 8, "v": draw(3, 8) / 8**0.5}
    predict = lambda p, x: F.linear(torch.tanh(F.linear(x, p["w"], p["b"])), p["v"])

    def inner(p: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        return (weights * F.cross_entropy(predict(p, x), classes, reduction="none")).mean()

    def step(state: tuple[dict, dict], hyper: Mapping[str, Tensor], batch: None) -> tuple[dict, dict]:
        p, momentum = state
        g = fg.inner_gradient(inner)(p, hyper["weights"].exp())
        momentum = {n: 0.9 * momentum[n] + g[n] for n in p}
        return {n: p[n] - hyper["rates"][i].exp() * momentum[n] for i, n in enumerate(p)}, momentum

    def outer(state: tuple[dict, dict], hyper: Mapping[str, Tensor]) -> Tensor:
        explicit = sum(0.01 * value.square().sum() for value in hyper.values())
        return (predict(state[0], seen) - wanted).square().mean() + explicit

    start = theta, {n: torch.zeros_like(p) for n, p in theta.items()}
    hyper = {"weights": 0.3 * draw(60), "rates": torch.full((6,), -2.5, dtype=torch.float64)}
    return fg.Unroll(step, start, outer, steps), hyper


def _flat(grad: Mapping[str, Tensor], hyper: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([grad[name].flatten() for name in hyper])


def draw(record: ClaimRecord) -> Figure:
    """Squared errors on the line of the law."""
    import matplotlib.pyplot as plt

    ks = torch.tensor(record.setting["num_tangents"], dtype=torch.float64)
    law = torch.tensor(record.series("law")[0], dtype=torch.float64)
    fine = torch.logspace(-0.2, float(ks[-1].log10()) + 0.2, 50, dtype=torch.float64)
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    axes.plot(fine, law[0] * ks[0] / fine, color="#8a8a8a", lw=1.4)
    axes.annotate("(N - 1)/K", (fine[30], law[0] / fine[30]), (8, 2), textcoords="offset points", color="#666666")
    for seed, errors in zip(record.runs, record.series("error"), strict=True):
        axes.plot(ks, errors, "o", color="#0072B2", ms=9, mec="white", label=None if seed else "measured, a seed each")
        for k, error, known in zip(ks, errors, law, strict=True):
            if not seed:
                axes.annotate(f"{100 * (error / known - 1):+.1f} %", (k, error), (10, 8), textcoords="offset points")
    axes.set(title="Squared error of a hypergradient, over |g|²", xscale="log", yscale="log")
    axes.set_xticks(ks, [f"{k:.0f}" for k in ks])
    axes.set_yticks((3, 10, 30, 100), ("3", "10", "30", "100"))
    axes.minorticks_off()
    axes.set_xlabel("K directions; figures: how far off the law the first seed is", loc="left")
    return figure


CLAIM = Claim(
    id="fg2u-variance",
    paper="2406.14095",
    sentence="Forward unrolling along K random signs is an unbiased hypergradient of variance (N - 1)/K.",
    published="E|g_hat - grad h|^2 = (N - 1)/K |grad h|^2 (Lemma 3.1)",
    experiment=experiment,
    settings={"quick": Setting(16_384), "record": Setting(262_144)},
    seeds={"quick": (0, 1), "record": (0, 1, 2)},
    checks=(
        Check("over_law_1", 0.95, 1.05),
        Check("over_law_4", 0.95, 1.05),
        Check("over_law_16", 0.9, 1.1),
        Check("mean_over_law", at_most=1.3),
    ),
    headline="variance over (N - 1)/K: {over_law_1:.3f}, {over_law_4:.3f}, {over_law_16:.3f} at K = 1, 4, 16; error of "
    "the mean over all directions {mean_error:.1%}, {mean_over_law:.2f} of what the variance explains",
    depends=("forwardgrad.bilevel.unroll", "forwardgrad.forward_ad.inner", "forwardgrad.methods.forward"),
    draw=draw,
)
