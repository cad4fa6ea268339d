"""What the training loop adds to the bare method, on data of MNIST's shape."""

from __future__ import annotations

from time import thread_time

import torch
from rich.console import Console

from bench.record import write
from forwardgrad import Key, backward
from forwardgrad.train.config import build_config
from forwardgrad.train.loop import train_run
from forwardgrad.train.record import Cost
from forwardgrad.train.seeding import stream
from forwardgrad.train.tasks.task import Splits

STEPS, BATCH = 200, 128


def loop_overhead(console: Console, host: dict[str, object], rounds: int, save: bool) -> None:
    """Interleaved, best of several rounds, in processor time; prints the ratio and writes a record."""
    x, y = torch.randn(STEPS * BATCH, 784), torch.randint(10, (STEPS * BATCH,))
    splits = Splits((x, y), (x[:100], y[:100]), (x[:100], y[:100]))
    tree = {"task": {"name": "mnist", "hidden": [256]}, "method": "forward", "steps": STEPS, "evaluations": 1}
    config = build_config(tree | {"lr": 1e-6})
    model = config.task.build(stream(0, "weights"))
    method, optimizer = config.method.build(model), torch.optim.SGD(model.parameters(), lr=1e-6)

    def bare() -> None:
        for step in range(STEPS):
            rows = slice(BATCH * step, BATCH * (step + 1))
            backward(method, model, config.task.loss, x[rows], y[rows], key=Key(0, step))
            optimizer.step()
            optimizer.zero_grad()

    def looped() -> None:
        train_run(config, splits, 0, Cost(1.0, 0, 0), lambda now: None)

    best = {bare: float("inf"), looped: float("inf")}
    for _ in range(rounds):
        for work in best:
            start = thread_time()
            work()
            best[work] = min(best[work], thread_time() - start)
    ratio = best[looped] / best[bare]
    console.print(f"the loop takes {ratio:.3f} of the bare method's time ({STEPS} steps, {rounds} rounds)")
    if save:
        figures = {"loop_over_bare": ratio}
        console.print(f"record: {write('loop', host, {'config': tree, 'figures': figures}).name}")
