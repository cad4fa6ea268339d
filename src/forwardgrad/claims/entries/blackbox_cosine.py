"""What a surrogate learns from past slopes turns the next estimate towards the gradient, and leaves its mean alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

import forwardgrad as fg
from forwardgrad.blackbox import Surrogate, SurrogateControl
from forwardgrad.claims.claim import Check, Claim, Finding, Tell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Dimension, steps of Adam and its rate; draws for the test of the mean."""

    steps: int = 500
    n: int = 128
    rate: float = 1e-2
    draws: int = 2000


class Local(nn.Module):
    """One small net for every pair of neighbours, summed: it knows that the function is a sum of such terms."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x.unfold(-1, 2, 1)).sum((-1, -2))
        return out


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Descents from one start with one direction a step; the cosine of every estimate with the true gradient."""
    slope = fg.Central(1e-4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        local = SurrogateControl(Surrogate(Local()), slope=slope)
        dense = SurrogateControl(
            Surrogate(nn.Sequential(nn.Linear(setting.n, 64), nn.GELU(), nn.Linear(64, 1))), slope=slope
        )
    ways: dict[str, fg.Method] = {
        "plain": fg.ForwardGradient(1, "rademacher", slope=slope),
        "dense": dense,
        "local": local,
        "exact": fg.Backprop(),
    }
    start = 2 * torch.rand(setting.n, generator=Generator().manual_seed(seed), dtype=torch.float64) - 1
    figures: dict[str, float] = {}
    series: dict[str, list[float]] = {}
    for name, method in ways.items():
        x = start.clone()
        optimizer = torch.optim.Adam([x], lr=setting.rate)
        cosines = []
        for step in range(setting.steps):
            grad = method(rosenbrock, {"x": x}, key=fg.Key(seed, step)).grad["x"] + 0
            cosines.append(float(torch.cosine_similarity(grad, gradient(x), 0)))
            x.grad = grad
            optimizer.step()
            if step % 100 == 0:
                tell(f"{name}, step {step} of {setting.steps}")
        figures |= {f"{name}_cosine": sum(cosines) / len(cosines), f"{name}_f": float(rosenbrock({"x": x}))}
        series[name] = cosines
        if method is local:
            h, g = local.guess({"x": x})["x"], gradient(x)
            many = SurrogateControl(local.surrogate, setting.draws, slope="jvp")
            mean = many(rosenbrock, {"x": x}, key=fg.Key(seed, setting.steps)).grad["x"] + 0
            # E|mean - g|^2 = (n - 1)/draws |g - h|^2: a bias would stand out against what the variance explains.
            law = ((setting.n - 1) / setting.draws) ** 0.5 * (g - h).norm()
            figures |= {"over_law": float((mean - g).norm() / law), "left": float((g - h).norm() / g.norm())}
    return Finding(figures, series)


def rosenbrock(params: Mapping[str, Tensor]) -> Tensor:
    """The sum over neighbours of 100 (b - a^2)^2 + (1 - a)^2."""
    a, b = params["x"][:-1], params["x"][1:]
    return (100 * (b - a.square()).square() + (1 - a).square()).sum()


def gradient(x: Tensor) -> Tensor:
    """The true one, for the cosine."""
    a, b = x[:-1], x[1:]
    g = torch.zeros_like(x)
    g[:-1] += -400 * a * (b - a.square()) - 2 * (1 - a)
    g[1:] += 200 * (b - a.square())
    return g


def draw(record: ClaimRecord) -> Figure:
    """Cosines over the descent, averaged over 25 steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, colour, label in (
        ("plain", "#8a8a8a", "one direction"),
        ("dense", "#E69F00", "around a dense surrogate"),
        ("local", "#0072B2", "around a surrogate of neighbours"),
    ):
        for run in record.series(name):
            smooth = torch.tensor(run).unfold(0, 25, 1).mean(1)
            axes.plot(range(12, 12 + len(smooth)), smooth, color=colour, label=label)
            label = "_"
    axes.axhline(0.3, color="black", lw=0.8, ls=":")
    axes.set(title="Cosine with the gradient", ylim=(0, 1))
    axes.set_xlabel("step", loc="left")
    figure.legend(loc="outside right upper")
    return figure


CLAIM = Claim(
    id="blackbox-cosine",
    paper="2405.02952",
    sentence="A surrogate that learns from past slopes takes noise out of a forward gradient and adds no bias.",
    published="unbiased variance reduction (abstract); no figure for this function was to be had",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(steps=2000)},
    seeds={"quick": (0, 1), "record": (0, 1, 2)},
    checks=(
        Check("local_cosine", at_least=0.3),
        Check("plain_cosine", 0.05, 0.09),
        Check("over_law", 0.8, 1.2),
    ),
    headline="cosine {local_cosine:.2f} around a surrogate of neighbours, {dense_cosine:.2f} around a dense one, "
    "{plain_cosine:.2f} plain; f at the end {local_f:.0f}, {dense_f:.0f}, {plain_f:.0f}, with exact gradients "
    "{exact_f:.0f}; error of the mean of 2,000 draws {over_law:.2f} of what the variance explains",
    depends=("forwardgrad.blackbox.control", "forwardgrad.blackbox.surrogate", "forwardgrad.combine"),
    draw=draw,
)
