"""`forwardgrad doctor`: whether forward mode works on a model, what a step costs, and which method to take."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer
from rich.console import Console

from forwardgrad.cli.shared import AsJson, plainly
from forwardgrad.errors import InputError

UNFIT = 6


@plainly
def doctor(
    model: Annotated[
        str, typer.Argument(help="A task, package.module:function, or a folder with a Hugging Face config.json.")
    ],
    batch: Annotated[
        str, typer.Option(help="Samples x tokens of the batch made up for a Hugging Face model.")
    ] = "8x128",
    memory: Annotated[
        str | None, typer.Option(help="What the advice may use, as 8GiB; else all this machine has.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is made up.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Look at a model: does forward mode work, what does a step of each method cost, which one fits.

    forwardgrad doctor digits

    forwardgrad doctor mypackage.nets:example --memory 500MiB

    forwardgrad doctor ~/models/gpt2 --batch 4x256

    The function takes no arguments and returns (model, loss_fn, *batch). Exit code 6: forward mode does not work here.
    """
    from forwardgrad.train.strict import parse_bytes

    shape, allowed = _shape(batch), parse_bytes(memory)
    from forwardgrad.train.examination import costs_table, examine, total_memory
    from forwardgrad.train.patient import patient

    one = patient(model, shape, seed)
    seen, room = examine(one), allowed if isinstance(allowed, int) else total_memory(one.model)
    if as_json:
        typer.echo(json.dumps(seen.to_json(room), indent=1))
    else:
        console = Console()
        console.print(str(seen.report), highlight=False, markup=False, style="" if seen.report else "red")
        console.print()
        console.print(costs_table(seen))
        console.print(f"\n[bold]{seen.advice(room)}[/]", highlight=False)
    if not seen.report:
        raise typer.Exit(UNFIT)


def _shape(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise InputError("--batch needs samples x tokens", f"`{text}`", "write it like 8x128")
    return int(found[1]), int(found[2])
