"""`forwardgrad demo`: the family side by side on the digits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forwardgrad.cli.running import train_and_show
from forwardgrad.cli.shared import AsJson, Out, Overwrite, Quiet, plainly


@plainly
def demo(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    forwards: Annotated[float, typer.Option(min=1, help="Forward passes of each run, by FLOPs.")] = 6_000,
    out: Out = Path("runs/demo"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train the digits by backprop and without it, side by side; ends with a table and a picture."""
    from forwardgrad.train.demo import contenders

    rows = contenders(forwards, tuple(range(seeds)))
    train_and_show(rows, out, as_json, quiet, overwrite=overwrite, demo=True)
