"""A net that hands a compiled solver its initial guess and its relaxation, trained on how long the solver takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp, isqrt, log, pi, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from forwardgrad.blackbox import BlackBox, Surrogate, iterations_to, sor_history
from forwardgrad.blackbox.box import Solve
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.forward_ad.peak import PeakBytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord

_LOW, _ALL = 4, 8  # modes per direction that the net guesses, and of which sources are made
_RTOL = 1e-6
OMEGAS = tuple(2 / (1 + exp(-0.25 * i)) for i in range(12))
"""The relaxations that a search tries: 1 to 1.88."""


@dataclass(frozen=True)
class Setting:
    """Interior points per direction, tasks a step, directions for each, steps, Adam's rate, and tasks of the test."""

    grid: int = 15
    tasks: int = 8
    directions: int = 4
    steps: int = 150
    rate: float = 1e-2
    test: int = 48


class Family:
    """-lap u + kappa u = f on the unit square, zero around: log kappa uniform up to 3000, f of 64 sine modes.

    Args:
        grid: interior points per direction.
        rtol: the residual at which the solver stops.
        coloured: points in the order of a chessboard's colours, in which sweeps can be written with tensors; or else
            row by row.
    """

    def __init__(self, grid: int, rtol: float = _RTOL, coloured: bool = True) -> None:
        from scipy import sparse

        self.grid, self.h, self.rtol = grid, 1 / (grid + 1), rtol
        line = sparse.diags([np.ones(grid - 1), np.ones(grid - 1)], [-1, 1])
        eye = sparse.identity(grid)
        i, j = np.divmod(np.arange(grid**2), grid)
        order = np.argsort((i + j) % 2 if coloured else 0 * i, kind="stable")
        self.red = int(((i + j) % 2 == 0).sum())
        self.neighbours = (sparse.kron(line, eye) + sparse.kron(eye, line)).tocsr()[order][:, order].tocsr()
        self.matrix = (sparse.identity(grid**2) - self.neighbours).tocsr()
        self.matrix.sort_indices()
        self.diagonal = np.flatnonzero(
            self.matrix.indices == np.repeat(np.arange(grid**2), np.diff(self.matrix.indptr))
        )
        wave = np.sin(pi * self.h * np.outer(np.arange(1, grid + 1), np.arange(1, _ALL + 1)))
        modes = np.einsum("xi,yj->xyij", wave, wave).reshape(grid**2, _ALL, _ALL)[order]
        number = np.arange(1, _ALL + 1)
        self.number = (number**2)[:, None] + (number**2)[None]  # i^2 + j^2
        self.modes = modes.reshape(grid**2, -1)
        self.low = modes[:, :_LOW, :_LOW].reshape(grid**2, -1) / (pi**2 * self.number[:_LOW, :_LOW].ravel())
        self.eigenvalues = 4 - 2 * (np.cos(pi * self.h * number)[:, None] + np.cos(pi * self.h * number)[None])

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Tasks [count, 1 + 64]: log(kappa) / 8, and the modes of the source."""
        kappa = torch.rand(count, 1, generator=generator, dtype=torch.float64)
        source = torch.randn(count, _ALL**2, generator=generator, dtype=torch.float64)
        return torch.cat([kappa * log(3000) / 8, source / torch.from_numpy(self.number).sqrt().flatten()], 1)

    def system(self, task: np.ndarray) -> tuple[Any, np.ndarray]:
        """Matrix and right-hand side, both times h^2."""
        matrix = self.matrix.copy()
        matrix.data[self.diagonal] = 4 + self.h**2 * np.exp(8 * task[0])
        return matrix, self.h**2 * self.modes @ task[1:]

    def young(self, task: np.ndarray) -> float:
        """The relaxation of the fastest SOR."""
        jacobi = 4 * np.cos(pi * self.h) / (4 + self.h**2 * np.exp(8 * task[0]))
        return float(2 / (1 + sqrt(1 - jacobi**2)))

    def exact(self, task: Tensor) -> Tensor:
        """What the net's guesses should be, [R, 16]: the low modes of the solutions."""
        scale = torch.from_numpy(pi**2 * self.h**2 * self.number)
        u = task[:, 1:].unflatten(1, (_ALL, _ALL)) * scale
        leak = self.h**2 * (8 * task[:, :1, None]).exp()
        return (u / (torch.from_numpy(self.eigenvalues) + leak))[:, :_LOW, :_LOW].flatten(1)

    def solve(self, theta: Tensor, task: Tensor | None, history: Callable[..., np.ndarray] = sor_history) -> Tensor:
        """Logarithms [R] of iterations at theta = (logit of omega / 2, guess)."""
        assert task is not None
        omega = 2 * torch.sigmoid(theta[:, 0]).numpy()
        guesses = theta[:, 1:].numpy() @ self.low.T
        found = []
        for row, (w, guess) in enumerate(zip(omega, guesses, strict=True)):
            matrix, right = self.system(task[row].numpy())
            found.append(log(max(iterations_to(history(matrix, right, guess, float(w), self.rtol), self.rtol), 0.1)))
        return torch.tensor(found, dtype=torch.float64)

    def twin(self, theta: Tensor, task: Tensor, segment: int | None = None, most: int = 1000) -> Tensor:
        """The same in PyTorch, sweep by sweep, which autograd can follow: what a user of pyamg does not have."""
        A = torch.from_numpy(self.neighbours.toarray())
        diagonal = 4 + self.h**2 * (8 * task[:, :1]).exp()
        right = self.h**2 * task[:, 1:] @ torch.from_numpy(self.modes).T
        omega, x = 2 * torch.sigmoid(theta[:, :1]), theta[:, 1:] @ torch.from_numpy(self.low).T
        red, size = self.red, right.norm(dim=1)

        def sweeps(x: Tensor, omega: Tensor, count: int) -> tuple[Tensor, Tensor]:
            seen = []
            for _ in range(count):
                first = torch.lerp(x[:, :red], (right[:, :red] + x[:, red:] @ A[red:, :red]) / diagonal, omega)
                second = torch.lerp(x[:, red:], (right[:, red:] + first @ A[:red, red:]) / diagonal, omega)
                x = torch.cat([first, second], 1)
                seen.append((right - diagonal * x + x @ A).norm(dim=1) / size)
            return x, torch.stack(seen)

        history = [((right - diagonal * x + x @ A).norm(dim=1) / size)[None]]
        done = 0
        while done < most and bool((history[-1][-1] > self.rtol).any()):
            count = 1 if segment is None else segment
            run = sweeps if segment is None else partial(checkpoint, sweeps, use_reentrant=False)
            x, seen = run(x, omega, count)  # type: ignore[operator]
            history.append(seen)
            done += count
        r = torch.cat(history).clamp_min(1e-300)
        k = (r.detach() > self.rtol).int().cumprod(0).sum(0) - 1
        before, after = r.gather(0, k[None])[0], r.gather(0, k[None] + 1)[0]
        return (k + (before / self.rtol).log() / (before / after).log()).log()


def network(seed: int) -> nn.Module:
    """From a task to theta; at first omega = 1 and the guess zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(1 + _ALL**2, 64), nn.Tanh(), nn.Linear(64, 1 + _LOW**2)).double()
    nn.init.zeros_(net[2].weight), nn.init.zeros_(net[2].bias)
    return net


class Stand(nn.Module):
    """The surrogate's net, on the error of the guess, as the paper has it: theta and task to iterations.

    Args:
        family: knows the solutions, as supervised learning must too.
        seed: of its weights.
    """

    def __init__(self, family: Family, seed: int) -> None:
        super().__init__()
        self.family = family
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(2 + _LOW**2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)
            ).double()

    def forward(self, theta: Tensor, task: Tensor) -> Tensor:
        error = theta[:, 1:] - self.family.exact(task)
        out: Tensor = self.layers(torch.cat([theta[:, :1], task[:, :1], error], 1))
        return out


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Iterations on tasks of a test, by what the net was trained on; and what a gradient through a twin holds."""
    family = Family(setting.grid)
    test = family.draw(setting.test, Generator().manual_seed(seed + 10_000))
    tasks = family.draw(16, Generator().manual_seed(seed))
    series = {
        "untuned": iterations(family.solve, relaxed([1.0] * len(test)), test),
        "constant": constant(family.solve, tasks, test),
        "young": iterations(family.solve, relaxed([family.young(task) for task in test.numpy()]), test),
    }
    surrogate = Surrogate(Stand(family, seed), memory=2048, batch=128, steps=2)
    boxes = {
        "plain": BlackBox(family.solve, setting.directions, seed=seed),
        "control": BlackBox(family.solve, setting.directions, surrogate=surrogate, seed=seed),
    }
    ways: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
        "supervised": partial(regression, family, lambda task: [family.young(row) for row in task.numpy()]),
        **{name: partial(duration, box) for name, box in boxes.items()},
        "twin": lambda net, task: family.twin(net(task), task).mean(),
    }
    nets = {}
    for name, loss in ways.items():
        nets[name] = trained(loss, family, setting, seed, partial(_of_way, tell, name))
        with torch.no_grad():
            series[name] = iterations(family.solve, nets[name](test), test)
    figures = {name: sum(found) / len(found) for name, found in series.items()}
    best, best_supervised = figures["constant"], figures["supervised"]
    figures |= {"cut": figures["control"] / best, "over_supervised": figures["control"] / best_supervised}
    figures["over_plain"] = figures["control"] / figures["plain"]
    for name, box in boxes.items():
        figures[f"{name}_cosine"] = cosine(family, nets["control"], box, test[:8])
        figures[f"{name}_solves"] = box.solves
    figures |= memory(family, boxes["plain"], test[:8], seed)
    return Finding(figures, series)


def _of_way(tell: Tell, name: str, text: str) -> None:
    tell(f"{name}, {text}")


def relaxed(omegas: Sequence[float]) -> Tensor:
    """Theta [R, n] of these relaxations and a zero guess."""
    theta = torch.zeros(len(omegas), 1 + _LOW**2, dtype=torch.float64)
    theta[:, 0] = torch.tensor([logit(omega) for omega in omegas])
    return theta


def searched(solve: Solve, task: Tensor) -> Tensor:
    """Logarithms [12, R] of iterations from a zero guess, for each of `OMEGAS`."""
    answers = solve(relaxed([omega for omega in OMEGAS for _ in task]), task.repeat(len(OMEGAS), 1))
    return torch.as_tensor(answers).view(len(OMEGAS), len(task))


def constant(solve: Solve, tasks: Tensor, test: Tensor) -> list[float]:
    """Iterations with the relaxation that is best for all of the `tasks` at once, from a zero guess."""
    best = OMEGAS[int(searched(solve, tasks).exp().mean(1).argmin())]
    return iterations(solve, relaxed([best] * len(test)), test)


def iterations(solve: Solve, theta: Tensor, test: Tensor) -> list[float]:
    """Of every task."""
    return [exp(answer) for answer in solve(theta, test).tolist()]


def logit(omega: float) -> float:
    """Of omega / 2."""
    return log(omega / (2 - omega))


def regression(family: Family, omegas: Callable[[Tensor], list[float]], net: nn.Module, task: Tensor) -> Tensor:
    """Supervised: the distance to the relaxations that are best from a zero guess, and to the solutions' low modes."""
    wanted = torch.cat([torch.tensor([[logit(omega)] for omega in omegas(task)]).to(task), family.exact(task)], 1)
    return (net(task) - wanted).square().mean()


def duration(box: BlackBox, net: nn.Module, task: Tensor) -> Tensor:
    """The mean logarithm of iterations."""
    answers: Tensor = box(net(task), task)
    return answers.mean()


def trained(
    loss: Callable[[nn.Module, Tensor], Tensor], family: Family, setting: Setting, seed: int, tell: Tell
) -> nn.Module:
    """The net after Adam with a cosine schedule and clipped gradients, on fresh tasks each step."""
    net, generator = network(seed), Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=setting.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, setting.steps)
    for step in range(setting.steps):
        optimizer.zero_grad()
        loss(net, family.draw(setting.tasks, generator)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            tell(f"step {step} of {setting.steps}")
    return net


def cosine(family: Family, net: nn.Module, box: BlackBox, task: Tensor) -> float:
    """Of estimates with the twin's gradient by theta, mean over rows and draws."""
    theta = net(task).detach().requires_grad_()
    (exact,) = torch.autograd.grad(family.twin(theta, task).sum(), theta)
    estimates = torch.stack([torch.autograd.grad(box(theta, task).sum(), theta)[0] for _ in range(4)])
    return float(torch.cosine_similarity(estimates, exact.expand_as(estimates), -1).mean())


def memory(family: Family, box: BlackBox, task: Tensor, seed: int) -> dict[str, float]:
    """Peak KiB of tensors in one gradient at the start, where loops are longest."""
    net, peaks = network(seed), {}
    sweeps = int(family.solve(net(task).detach(), task).max().exp()) + 1
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
    axes.set(yscale="log", xlabel="share of tasks", ylabel="sweeps to 1e-6")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


CLAIM = Claim(
    id="blackbox-poisson",
    paper="2405.02952",
    sentence="A net trained through a compiled solver by its slopes cuts the solver's iterations on a family of "
    "Poisson problems.",
    published="an advantage over other baselines (abstract); no figure was to be had",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(steps=1500, test=200)},
    seeds={"record": (0, 1, 2)},
    checks=(
        Check("cut", at_most=2 / 3),
        Check("over_supervised", at_most=1.1),
        Check("over_plain", at_most=1.0),
        Check("control_cosine", at_least=0.3),
    ),
    headline="SOR sweeps: {control:.1f} around a surrogate, {plain:.1f} plain, {supervised:.1f} supervised, "
    "{twin:.1f} by backprop through a differentiable twin; {young:.1f} with Young's relaxation, {constant:.1f} with "
    "the best constant one, {untuned:.0f} with none; a gradient holds {box_kib:.0f} KiB of tensors, through the twin "
    "{backprop_kib:.0f}, checkpointed {checkpointed_kib:.0f}",
    depends=("forwardgrad.blackbox.box", "forwardgrad.blackbox.surrogate", "forwardgrad.blackbox.relaxation"),
    packages={"pyamg": "solvers", "scipy": "solvers"},
    draw=draw,
)
