"""The test functions: how far K slopes a step go on a sphere and on Rosenbrock's valley."""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import forwardgrad as fg
from bench.record import write


def sphere(params: dict[str, Tensor]) -> Tensor:
    """|x|^2, minimum 0 at the origin."""
    return params["x"].square().sum()


def rosenbrock(params: dict[str, Tensor]) -> Tensor:
    """sum 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2, minimum 0 at ones."""
    x = params["x"]
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def descend(method: fg.Method, fn: Callable, start: Tensor, lr: float, steps: int, seed: int) -> float:
    """f after plain descent from `start`."""
    objective, x = fg.FunctionObjective(fn), start.clone()
    for step in range(steps):
        x -= lr * method(objective, {"x": x}, key=fg.Key(seed, step)).grad["x"]
    return float(fn({"x": x}))


def valley() -> Tensor:
    """(-1, 0, ..., 0), where Rosenbrock's function is usually started."""
    start = torch.zeros(16, dtype=torch.float64)
    start[0] = -1
    return start


RUNS = {
    "sphere, mean": (fg.ForwardGradient(16, "gaussian"), sphere, -torch.ones(1024), 7.5e-3, 1000),
    "sphere, project": (fg.ForwardGradient(16, "gaussian", combine="project"), sphere, -torch.ones(1024), 0.486, 1000),
    "Rosenbrock, project": (fg.ForwardGradient(16, "gaussian", combine="project"), rosenbrock, valley(), 1e-3, 25000),
}


def functions(console: Console, host: dict[str, object], seeds: list[int], save: bool) -> None:
    """Runs them all, prints a table and writes a record."""
    table = Table("function", "n", "K", "rate", "steps", *(f"f, seed {seed}" for seed in seeds))
    figures: dict[str, float] = {}
    for name, (method, fn, start, lr, steps) in RUNS.items():
        ends = [descend(method, fn, start, lr, steps, seed) for seed in seeds]
        figures |= {f"{name}, seed {seed}": end for seed, end in zip(seeds, ends, strict=True)}
        table.add_row(name, str(start.numel()), "16", f"{lr:g}", str(steps), *(f"{end:.2e}" for end in ends))
    console.print(table)
    if save:
        config = {name: {"method": repr(m), "lr": lr, "steps": n} for name, (m, _, _, lr, n) in RUNS.items()}
        console.print(
            f"record: {write('functions', host, {'config': config, 'seeds': seeds, 'figures': figures}).name}"
        )
