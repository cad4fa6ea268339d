"""Clients that share the weights out among them estimate the gradient no better than clients that each take all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """M clients with the same data, one slope each; the net has M layers of equal size, one a client where split."""

    draws: int
    clients: int = 8
    width: int = 8
    batch: int = 32
    pushed: int = 512


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Squared errors over |g|^2 of the server's estimate, from M slopes at one point, and the laws for signs."""
    names, model, batch = problem(setting, seed)
    whole = fg.ModuleObjective(model, cross_entropy, *batch)
    g = flat(fg.Backprop()(whole, whole.params).grad, whole.params)
    n, m, draws = len(g), setting.clients, setting.draws
    size = g.square().sum()

    estimates = torch.cat(list(slopes(whole, setting, draws * m, seed)))
    # Of M clients with seeds of their own the mean; with one seed all of them have the first's estimate.
    errors = {"distinct": estimates.view(draws, m, n).mean(1), "shared": estimates[:draws]}
    tell("whole")
    parts = []
    for i, layer in enumerate(names):
        own = fg.ModuleObjective(model, cross_entropy, *batch, params=layer)
        parts.append(torch.cat(list(slopes(own, setting, draws, 1000 * (i + 1) + seed))))
        tell(f"client {i + 1} of {m}")
    errors["split"] = torch.cat(parts, 1)
    figures, series = {}, {}
    for name, estimate in errors.items():
        squared = (estimate - g).square().sum(1) / size
        figures[name] = float(squared.mean())
        figures[f"{name}_se"] = float(squared.std() / draws**0.5)
    laws = {"distinct": (n - 1) / m, "split": n / m - 1, "shared": n - 1.0}
    figures |= {f"{name}_over_law": figures[name] / law for name, law in laws.items()}
    figures["split_over_distinct"] = figures["split"] / figures["distinct"]
    figures["shared_over_distinct"] = figures["shared"] / figures["distinct"] / m
    series["law"] = list(laws.values())
    return Finding(figures, series)


def problem(setting: Setting, seed: int) -> tuple[list[list[str]], nn.Sequential, tuple[Tensor, Tensor]]:
    """The names of each client's parameters, a net of M square layers, and the batch that all clients have."""
    generator, width = Generator().manual_seed(seed), setting.width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [layer for _ in range(setting.clients) for layer in (nn.Linear(width, width), nn.Tanh())]
        model = nn.Sequential(*layers[:-1]).double()
    x = torch.randn(setting.batch, width, generator=generator, dtype=torch.float64)
    y = torch.randint(width, (setting.batch,), generator=generator)
    names = [[f"{2 * i}.weight", f"{2 * i}.bias"] for i in range(setting.clients)]
    return names, model, (x, y)


def slopes(objective: fg.ModuleObjective, setting: Setting, count: int, seed: int) -> Iterator[Tensor]:
    """Estimates of one slope each [pushed, n], until there are `count`."""
    for step in range(count // setting.pushed):
        key = fg.Key(seed, step)
        estimate = fg.ForwardGradient(setting.pushed, "rademacher")(objective, objective.params, key=key)
        v = fg.Rademacher()(objective.params, setting.pushed, key).dense()
        yield estimate.slopes[:, None] * torch.cat([v[name].flatten(1) for name in objective.params], 1)


def draw(record: ClaimRecord) -> Figure:
    """The three errors as bars, their laws as lines."""
    import matplotlib.pyplot as plt
    import numpy as np

    names = {
        "split": "each client its own layers",
        "distinct": "all weights, seeds of their own",
        "shared": "all weights, one seed for all",
    }
    laws = dict(zip(("distinct", "split", "shared"), np.mean(record.series("law"), axis=0), strict=True))
    figures, m = record.figures(), record.setting["clients"]
    with plt.style.context("forwardgrad.train.look"):
        figure, axes = plt.subplots(figsize=(7.6, 2.9))
        for place, (name, colour) in enumerate(zip(names, ("#0072B2", "#56B4E9", "#D55E00"), strict=True)):
            seen = float(np.mean(figures[name]))
            axes.barh(-place, seen, height=0.55, color=colour)
            axes.plot([laws[name]] * 2, [-place - 0.36, -place + 0.36], color="#222222", lw=1.6)
            axes.annotate(f"{seen:.1f}", (seen, -place), (8, 0), textcoords="offset points", va="center")
        axes.set_yticks([0, -1, -2], list(names.values()))
        axes.grid(visible=False)
        axes.tick_params(axis="y", labelcolor="#222222")
        axes.set(title=f"Squared error over |g|², {m} clients with a slope each", xlim=(0, 1.12 * laws["shared"]))
        axes.set_xlabel("bars: measured; marks: the law", loc="left")
    return figure


CLAIM = Claim(
    id="split-clients",
    paper="2405.15551",
    sentence="Splitting the weights among clients buys no variance in a single step: as many slopes along all weights, "
    "from a seed per client, estimate the gradient as well.",
    published="",
    experiment=experiment,
    settings={"quick": Setting(8192), "record": Setting(131_072)},
    seeds={"quick": (0, 1), "record": (0, 1, 2)},
    # (n/M - 1)/((n - 1)/M) is 0.988 here: splitting gains what one direction of n is worth.
    checks=(Check("split_over_distinct", 0.95, 1.05), Check("shared_over_distinct", 0.95, 1.05)),
    headline="squared error over |g|^2 from 8 slopes: split {split:.1f}, distinct seeds {distinct:.1f} (ratio "
    "{split_over_distinct:.3f}); where the clients share one seed {shared:.0f}",
    depends=("forwardgrad.methods.forward", "forwardgrad.tangents.rademacher"),
    draw=draw,
)
