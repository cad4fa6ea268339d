"""MiniLM with LoRA on sentences: the family at equal forward passes, at rates found by a search of their own.

The rates come from single runs of 240 to 400 forward passes on seed 100, judged on 256 validation texts; they are not
those that `forwardgrad compare` would tune, which costs as much again.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from forwardgrad.train.comparison import Contender, begin, carry_on
from forwardgrad.train.config import build_config
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.report import Bars, results_table

TASKS = {"sst2": {"name": "sst2"}, "ag-news": {"name": "ag-news", "max_length": 32}}


def rows(task: str, forwards: float, seeds: list[int]) -> list[Contender]:
    def forward(K: int) -> dict[str, object]:
        return {"name": "forward", "num_tangents": K}

    methods = {
        "backprop": ({"name": "backprop"}, 0.1),
        "checkpointed": ({"name": "checkpointed"}, 0.1),
        "checkpointed, fused": ({"name": "checkpointed", "fused": True}, 0.1),
        "SPSA": ({"name": "spsa"}, 100.0),
        "forward K=1": (forward(1), 100.0),
        "forward K=8": (forward(8), 100.0 if task == "sst2" else 60.0),
        "forward K=32": (forward(32), 30.0),
    }
    shared = {"task": TASKS[task], "forwards": forwards, "seeds": seeds, "evaluations": 5}
    return [
        Contender(label, build_config(shared | {"method": method, "lr": lr})) for label, (method, lr) in methods.items()
    ]


def text(console: Console, task: str, forwards: float, seeds: list[int], out: Path) -> None:
    """Runs the study, and leaves its record in a folder; a study that was killed goes on with `forwardgrad resume`."""
    contenders, output = rows(task, forwards, seeds), OutputFolder(out).probe()
    splits = contenders[0].config.task.load()
    with Bars(console, contenders) as bars:
        record = carry_on(begin(contenders, output), splits, output, bars)
    console.print(results_table(record))
