"""The test functions: how far K slopes a step go on a sphere and on Rosenbrock's valley."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import forwardgrad as fg
from bench.record import write
from forwardgrad.train.tasks.functions import Rosenbrock, Sphere


def descend(method: fg.Method, task: Sphere | Rosenbrock, start: Tensor, lr: float, steps: int, seed: int) -> float:
    """f after plain descent from `start`."""
    objective, x = fg.FunctionObjective(lambda params: task.value(params["x"])), start.clone()
    for step in range(steps):
        x -= lr * method(objective, {"x": x}, key=fg.Key(seed, step)).grad["x"]
    return float(task.value(x))


def valley() -> Tensor:
    """(-1, 0, ..., 0), where Rosenbrock's function is usually started."""
    start = torch.zeros(16, dtype=torch.float64)
    start[0] = -1
    return start


MEAN, PROJECT = fg.ForwardGradient(16, "gaussian"), fg.ForwardGradient(16, "gaussian", combine="project")
RUNS = {
    "sphere, mean": (MEAN, Sphere(), -torch.ones(1024), 7.5e-3, 1000),
    "sphere, project": (PROJECT, Sphere(), -torch.ones(1024), 0.486, 1000),
    "Rosenbrock, project": (PROJECT, Rosenbrock(), valley(), 1e-3, 25000),
}


def functions(console: Console, host: dict[str, object], seeds: list[int], save: bool) -> None:
    """Runs them all, prints a table and writes a record."""
    table = Table("function", "n", "K", "rate", "steps", *(f"f, seed {seed}" for seed in seeds))
    figures: dict[str, float] = {}
    for name, (method, task, start, lr, steps) in RUNS.items():
        ends = [descend(method, task, start, lr, steps, seed) for seed in seeds]
        figures |= {f"{name}, seed {seed}": end for seed, end in zip(seeds, ends, strict=True)}
        table.add_row(name, str(start.numel()), "16", f"{lr:g}", str(steps), *(f"{end:.2e}" for end in ends))
    console.print(table)
    if save:
        config = {name: {"method": repr(m), "lr": lr, "steps": n} for name, (m, _, _, lr, n) in RUNS.items()}
        console.print(
            f"record: {write('functions', host, {'config': config, 'seeds': seeds, 'figures': figures}).name}"
        )
