"""A whole training step with its update, on one short sequence: where drawing and updating weigh most.

Llama of 4 layers, d = 512, 1 x 128 tokens; plain SGD. What counts is the time from one set of weights to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import forwardgrad as fg
from bench import record
from bench.mezo import Mezo
from bench.nets import llama
from bench.rivals import Objective
from bench.speed import FORWARD, forward_of
from bench.timing import interleaved

_LR = 1e-8  # so small that hundreds of steps leave the net what it is


def whole_step(console: Console, host: dict[str, Any], rounds: int, save: bool) -> None:
    """Measures, prints, compares with the last record, and writes a new one."""
    net = llama(depth=4, width=512, batch=1, tokens=128)
    optimizer = torch.optim.SGD(net.model.parameters(), lr=_LR)
    objective = Objective(net)
    steps = count()

    def stepping(fill: Callable[[], object]) -> Callable[[], None]:
        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            fill()
            optimizer.step()

        return step

    def by(method: object, **options: Any) -> Callable[[], object]:
        key = lambda: fg.Key(0, next(steps))
        return lambda: fg.backward(method, net.model, net.loss_fn, *net.batch, key=key(), **options)

    mezo = Mezo(objective.params, objective)

    def mezo_step() -> None:
        seed = next(steps)
        mezo.update(mezo.slope(seed), _LR, seed)

    fused = fg.CheckpointedBackprop(fused=True)
    works: dict[str, Callable[[], object]] = {
        FORWARD: forward_of(net),
        "fg.ForwardGradient, K = 1": stepping(by(fg.ForwardGradient())),
        "MeZO": mezo_step,
        "backprop": stepping(lambda: net.loss_fn(net.model, *net.batch).backward()),
        "checkpointed backprop": stepping(by(fg.CheckpointedBackprop())),
        "checkpointed, update fused": by(fused, into=fg.Apply(lambda p: torch.optim.SGD(p, lr=_LR))),
    }
    timings = interleaved(works, rounds)
    unit = timings[FORWARD].seconds
    figures = {name: timing.seconds / unit for name, timing in timings.items() if name != FORWARD}
    table = Table(title=f"a step with its update; one forward pass: {unit * 1e3:.1f} ms", title_justify="left")
    table.add_column("")
    table.add_column("forward passes", justify="right")
    for name, ratio in figures.items():
        table.add_row(name, f"{ratio:.2f}")
    console.print(table)
    config = {"net": "llama, 4 layers, d=512, 1x128 tokens", "rounds": rounds, "optimizer": "SGD"}
    spreads = {name: timing.spread for name, timing in timings.items()}
    content = {"config": config, "figures": figures, "spreads": spreads, "seconds": unit}
    record.conclude(console, "step", host, content, save)
