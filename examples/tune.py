"""How the learning rates in train/tasks/ were chosen: the same search for every method, by validation only.

Two seeds that the demo does not use, one grid for all and two more values around its best, and one budget of forward
passes. The test part is not looked at. Prints one line per method and learning rate, and the winner.

    python examples/tune.py digits                    about 15 minutes on one core
    python examples/tune.py mnist 6000 forward        a budget, and only the methods whose label begins so
"""

import math
import sys
from statistics import fmean

import torch

from forwardgrad.errors import NonFiniteError
from forwardgrad.train.comparison import Contender
from forwardgrad.train.config import RunConfig, build_config
from forwardgrad.train.demo import contenders
from forwardgrad.train.loop import step_cost, train_run

GRID = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
CLOSER = (0.5, 2.0)  # times the best of the grid
SEEDS = (100, 101)


def merit(config: RunConfig, splits) -> float:
    """Mean over the seeds of the best validation accuracy of a run, or of minus its loss where a task has none."""
    try:
        cost = step_cost(config, splits)
        runs = [train_run(config, splits, seed, cost, lambda now: None) for seed in SEEDS]
    except NonFiniteError:
        return -math.inf
    best = [max(run.curve, key=lambda point: point.rank) for run in runs]
    return fmean(-one.validation_loss if one.validation_accuracy is None else one.validation_accuracy for one in best)


def search(row: Contender, splits) -> float:
    """The best learning rate for one method: the grid, then closer around its best."""
    found: dict[float, float] = {}
    for round_number in (1, 2):
        centre = max(found, key=found.__getitem__) if round_number == 2 else 1.0
        for lr in (factor * centre for factor in (GRID if round_number == 1 else CLOSER)):
            found[lr] = merit(row.config.model_copy(update={"lr": lr}), splits)
            print(f"{row.label:24}lr {lr:<6g} validation {found[lr]:.4g}", flush=True)
    return max(found, key=found.__getitem__)


def main(task: str, forwards: str = "6000", prefix: str = "") -> None:
    torch.set_num_threads(1)
    splits = build_config({"task": task, "method": "backprop"}).task.load()
    for row in contenders(float(forwards)):
        # The checkpointed forms have backprop's gradient, hence its learning rate.
        if row.label.startswith(prefix) and row.config.method.name != "checkpointed":
            config = build_config({"task": task, "forwards": forwards, "method": row.config.method.model_dump()})
            print(f"{row.label:24}best: lr {search(Contender(row.label, config), splits):g}\n", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
