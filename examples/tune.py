"""A task's learning rates by the search of `forwardgrad compare`: the same for every method, by validation only.

Two seeds that the demo does not use, 12 trials and one budget of forward passes for each method. The test part is not
looked at. Prints one line per method and learning rate, and the winner.

    python examples/tune.py digits                    about 15 minutes on one core
    python examples/tune.py mnist 6000 forward        a budget, and only the methods whose label begins so
"""

import sys

import torch

from forwardgrad.train.config import build_config
from forwardgrad.train.demo import contenders
from forwardgrad.train.loop import step_cost
from forwardgrad.train.study.config import Tuning
from forwardgrad.train.study.rates import at_edge, best_of
from forwardgrad.train.study.tuner import search

TUNING = Tuning(trials=12, fraction=1.0, span=30.0, seeds=(100, 101))


def main(task: str, forwards: str = "6000", prefix: str = "") -> None:
    torch.set_num_threads(1)
    splits = build_config({"task": task, "method": "backprop"}).task.load()
    for row in contenders(float(forwards)):
        # The checkpointed forms have backprop's gradient, hence its learning rate.
        if not row.label.startswith(prefix) or row.config.method.name == "checkpointed":
            continue
        config = build_config({"task": task, "forwards": forwards, "method": row.config.method.model_dump()})
        tried = []
        report = lambda trial: print(f"{row.label:24}{trial}", flush=True)  # noqa: B023 # called in this turn only
        search(config, splits, step_cost(config, splits), TUNING, tried, lambda now: None, report)
        best, edge = best_of(tried), at_edge(tried)
        rate = "every rate diverged" if best is None else f"best: lr {best.lr:.3g}"
        print(f"{row.label:24}{rate}{f', at the {edge} edge: widen span' if edge else ''}\n", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
