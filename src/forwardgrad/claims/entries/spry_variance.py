"""Splitting among clients saves work, memory and nothing else: the error of one round is that of averaging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.federated import EveryLayer, LayerSplit, Split, Spry
from forwardgrad.federated.spry import of_client

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """A quadratic whose gradient is spread evenly over M layers of equal size, and clients with the same data."""

    clients: int = 10
    size: int = 60
    draws: int = 4000


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    r"""E|g_hat - g|^2 / |g|^2 of a round: split, averaged, and averaged with one seed for all."""
    generator, M = Generator().manual_seed(seed), setting.clients
    goal = nn.functional.normalize(torch.randn(M, setting.size, generator=generator), dim=1)
    names = [f"layer{i}.weight" for i in range(M)]
    f = fg.FunctionObjective(lambda p: torch.stack([(p[n] * g).sum() for n, g in zip(names, goal, strict=True)]).sum())
    figures = {
        "split": _error(LayerSplit(), f, names, goal, setting, seed, one_seed=False),
        "averaged": _error(EveryLayer(), f, names, goal, setting, seed, one_seed=False),
        "one_seed": _error(EveryLayer(), f, names, goal, setting, seed, one_seed=True),
    }
    n = setting.size * M
    figures |= {"ratio": figures["split"] / figures["averaged"], "split_law": n / M - 1, "averaged_law": (n - 1) / M}
    tell(", ".join(f"{name} {value:.1f}" for name, value in figures.items()))
    return Finding(figures)


def _error(
    split: Split, f: fg.FunctionObjective, names: list[str], g: Tensor, setting: Setting, seed: int, one_seed: bool
) -> float:
    """Over many rounds at once: a round's estimate for each tangent that the clients measured a slope along."""
    M, draws, key = setting.clients, setting.draws, fg.Key(seed)
    params = {name: torch.zeros(setting.size) for name in names}
    shares, rule = split(names, M, 0), Spry(method=fg.ForwardGradient(draws, "rademacher"), split=split)
    owners = {name: sum(name in share for share in shares) for name in names}
    estimates = torch.zeros(draws, M, setting.size)
    for slot in range(M):
        asked = 0 if one_seed else slot
        slopes = rule.measure(f, params, key, asked, M).slopes
        own = fg.Rademacher()({name: params[name] for name in shares[asked]}, draws, of_client(key, asked))
        for name, v in own.items():
            estimates[:, names.index(name)] += slopes[:, None] * v.dense() / owners[name]
    return float((estimates - g).square().sum((1, 2)).mean() / g.square().sum())


def draw(record: ClaimRecord) -> Figure:
    """The errors as bars, the laws as marks.

    Args:
        record: of this claim.
    """
    from matplotlib.figure import Figure

    names = {
        "split": ("each client its own layers", "#0072B2"),
        "averaged": ("all layers, a seed per client", "#56B4E9"),
        "one_seed": ("all layers, one seed for all", "#D55E00"),
    }
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    axes, figures = figure.subplots(), record.figures()
    for place, (name, (_, colour)) in enumerate(names.items()):
        axes.barh(place, figures[name][0], height=0.55, color=colour)
        axes.annotate(
            f"{figures[name][0]:.1f}", (figures[name][0], place), (7, 0), textcoords="offset points", va="center"
        )
        if f"{name}_law" in figures:
            axes.plot([figures[f"{name}_law"][0]] * 2, [place - 0.36, place + 0.36], color="#222222", lw=1.6)
    axes.set_yticks(range(len(names)), [label for label, _ in names.values()])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set(title="Squared error of a round over |g|\u00b2, ten clients")
    axes.set_xlabel("bars: measured; marks: the law", loc="left")
    axes.margins(x=0.12)
    return figure


CLAIM = Claim(
    id="spry-variance",
    paper="2405.15551",
    sentence="Splitting layers among clients buys no one-step variance over averaging as many estimates of all layers, "
    "and both are better than clients of one seed.",
    published="",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(draws=50_000)},
    checks=(Check("ratio", at_least=0.95, at_most=1.05), Check("one_seed", at_least=300)),
    headline="E|g_hat - g|^2/|g|^2 of a round of 10 clients and 600 parameters: split {split:.1f} (law "
    "{split_law:.1f}), averaged {averaged:.1f} (law {averaged_law:.1f}), averaged with one seed for all {one_seed:.0f}",
    depends=("forwardgrad.federated.spry", "forwardgrad.federated.split", "forwardgrad.methods.forward"),
    draw=draw,
)
