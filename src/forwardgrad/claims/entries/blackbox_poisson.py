"""A net that hands a compiled solver its initial guess and its relaxation, tuned by how long the solver takes."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor, nn

from forwardgrad.blackbox import BlackBox, Surrogate
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.claims.poisson import ALL, LOW, Family, constant, iterations, logit, relaxed
from forwardgrad.forward_ad.peak import PeakBytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


Loss = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """Interior points per direction; the tolerance; supervised steps, then steps through the solver; tasks of each."""

    grid: int = 15
    rtol: float = 1e-3  # as in the paper's code
    supervised: int = 600
    steps: int = 120
    directions: int = 4
    tasks: int = 8
    test: int = 48


class Guide(nn.Module):
    """From a task to theta: a relaxation, and a gain for every mode of the source; at first omega = 1 and gains 0.

    Args:
        seed: of its weights.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            last = nn.Linear(32, 1 + LOW**2)
            self.layers = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), last).double()
        nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)

    def forward(self, task: Tensor) -> Tensor:
        out = self.layers(task[:, :1])
        source = task[:, 1:].unflatten(1, (ALL, ALL))[:, :LOW, :LOW].flatten(1)
        return torch.cat([out[:, :1], out[:, 1:] * source], 1)


class Stand(nn.Module):
    """The surrogate's net, from theta and task to iterations, which go with the logarithm of the error of the guess.

    Args:
        family: knows the solutions, as supervised learning must too, and the surrogates of the paper.
        seed: of its weights.
    """

    def __init__(self, family: Family, seed: int) -> None:
        super().__init__()
        self.family = family
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(3, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1)
            ).double()
        self.weights = nn.Parameter(torch.zeros(LOW**2, dtype=torch.float64))
        self.floor = nn.Parameter(torch.tensor(-4.0, dtype=torch.float64))  # what modes that are not guessed leave

    def forward(self, theta: Tensor, task: Tensor) -> Tensor:
        error = (theta[:, 1:] - self.family.exact(task)).square() @ self.weights.exp() + self.floor.exp()
        out: Tensor = self.layers(torch.cat([theta[:, :1], task[:, :1], error.log()[:, None]], 1))
        return out


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Iterations on tasks of a test, by what the net was trained on; and what a gradient through a twin holds."""
    family = Family(setting.grid, setting.rtol)
    test = family.draw(setting.test, Generator().manual_seed(seed + 10_000))
    tasks = family.draw(16, Generator().manual_seed(seed))
    series = {
        "untuned": iterations(family.solve, relaxed([1.0] * len(test)), test),
        "constant": constant(family.solve, tasks, test),
        "young": iterations(family.solve, relaxed([family.young(task) for task in test.numpy()]), test),
    }
    surrogate = Surrogate(Stand(family, seed), rate=2e-2, memory=2048, batch=128, steps=6)
    boxes = {
        "plain": BlackBox(family.solve, setting.directions, seed=seed),
        "control": BlackBox(family.solve, setting.directions, surrogate=surrogate, seed=seed),
    }
    supervised = partial(regression, family)
    fresh = partial(family.draw, setting.tasks)
    first = trained(Guide(seed), supervised, fresh, setting.supervised, 1e-2, seed, partial(_of_way, tell, "first"))
    ways: dict[str, Loss] = {
        "supervised": supervised,
        **{name: partial(duration, box) for name, box in boxes.items()},
        "twin": lambda net, task: family.twin(net(task), task).mean() / 10,
    }
    nets = {}
    for name, loss in ways.items():
        said = partial(_of_way, tell, name)
        nets[name] = trained(deepcopy(first), loss, fresh, setting.steps, 1e-2, seed + 1, said)
        with torch.no_grad():
            series[name] = iterations(family.solve, nets[name](test), test)
    figures = {name: sum(found) / len(found) for name, found in series.items()}
    best, best_supervised = figures["constant"], figures["supervised"]
    figures |= {"cut": figures["control"] / best, "over_supervised": figures["control"] / best_supervised}
    figures["over_plain"] = figures["control"] / figures["plain"]
    for name, box in boxes.items():
        figures[f"{name}_solves"] = box.solves
        figures[f"{name}_cosine"] = cosine(family, nets["control"], deepcopy(box), test)
    figures |= memory(family, boxes["plain"], test[:8], seed)
    return Finding(figures, series)


def _of_way(tell: Tell, name: str, text: str) -> None:
    tell(f"{name}, {text}")


def regression(family: Family, net: nn.Module, task: Tensor) -> Tensor:
    """Supervised: the distance to Young's relaxations, and to the low modes of the solutions."""
    omegas = torch.tensor([[logit(family.young(row))] for row in task.numpy()], dtype=torch.float64)
    return (net(task) - torch.cat([omegas, family.exact(task)], 1)).square().mean()


def duration(box: BlackBox, net: nn.Module, task: Tensor) -> Tensor:
    """The mean of iterations, in tens."""
    answers: Tensor = box(net(task), task)
    return answers.mean() / 10


def trained(
    net: nn.Module,
    loss: Loss,
    draw: Callable[[Generator], Tensor],
    steps: int,
    rate: float,
    seed: int,
    tell: Tell,
) -> nn.Module:
    """The net after Adam with a rate that falls as a cosine and clipped gradients, on fresh tasks each step."""
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss(net, draw(generator)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            tell(f"step {step} of {steps}")
    return net


def cosine(family: Family, net: nn.Module, box: BlackBox, task: Tensor) -> float:
    """Of estimates with the twin's gradient by theta, mean over rows; one draw, since the surrogate learns from it."""
    theta = net(task).detach().requires_grad_()
    (exact,) = torch.autograd.grad(family.twin(theta, task).sum(), theta)
    (estimate,) = torch.autograd.grad(box(theta, task).sum(), theta)
    return float(torch.cosine_similarity(estimate, exact, -1).mean())


def memory(family: Family, box: BlackBox, task: Tensor, seed: int) -> dict[str, float]:
    """Peak KiB of tensors in one gradient at the start, where loops are longest."""
    net, peaks = Guide(seed), {}
    sweeps = int(family.solve(net(task).detach(), task).max()) + 1
    ways = {
        "box": lambda: box(net(task), task),
        "backprop": lambda: family.twin(net(task), task),
        "checkpointed": lambda: family.twin(net(task), task, isqrt(sweeps)),
    }
    for name, run in ways.items():
        with PeakBytes() as held:
            torch.autograd.grad(run().mean(), list(net.parameters()))
        peaks[f"{name}_kib"] = held.peak / 2**10
    return peaks | {"sweeps": sweeps}


def draw(record: ClaimRecord) -> Figure:
    """Iterations of the test tasks, sorted, by what chose theta."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, colour, label in (
        ("untuned", "#cccccc", "Gauss-Seidel from zero"),
        ("constant", "#8a8a8a", "best constant relaxation"),
        ("young", "#2b2b2b", "Young's relaxation"),
        ("supervised", "#E69F00", "supervised"),
        ("plain", "#56B4E9", "black box, plain"),
        ("control", "#0072B2", "black box, surrogate"),
        ("twin", "#D55E00", "backprop through a twin"),
    ):
        values = sorted(record.series(name)[0])
        axes.plot(np.linspace(0, 1, len(values)), values, color=colour, label=label)
    axes.set(title="Sweeps that a task takes, tasks sorted", yscale="log")
    axes.set_xlabel("share of tasks", loc="left")
    figure.legend(loc="outside right upper")
    return figure


CLAIM = Claim(
    id="blackbox-poisson",
    paper="2405.02952",
    sentence="A net tuned through a compiled solver by its slopes cuts the solver's iterations on a family of Poisson "
    "problems below those of supervised learning.",
    published="an advantage over other baselines (abstract); no figure was to be had",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(supervised=3000, steps=1000, test=200)},
    seeds={"record": (0, 1, 2)},
    checks=(
        Check("cut", at_most=2 / 3),
        Check("over_supervised", at_most=0.9),
        Check("over_plain", at_most=1.0),
        Check("control_cosine", at_least=0.3),
    ),
    headline="SOR sweeps: {supervised:.1f} supervised; then through the solver {control:.1f} around a surrogate, "
    "{plain:.1f} plain, "
    "{twin:.1f} by backprop through a differentiable twin; {young:.1f} with Young's relaxation, {constant:.1f} with "
    "the best constant one, {untuned:.0f} with none; a gradient holds {box_kib:.0f} KiB of tensors, through the twin "
    "{backprop_kib:.0f}, checkpointed {checkpointed_kib:.0f} (a fused update has nothing to spare: the "
    "gradient is 625 numbers)",
    depends=(
        "forwardgrad.claims.poisson",
        "forwardgrad.blackbox.box",
        "forwardgrad.blackbox.surrogate",
        "forwardgrad.blackbox.relaxation",
    ),
    packages={"pyamg": "solvers", "scipy": "solvers"},
    draw=draw,
)
