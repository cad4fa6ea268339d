"""`forwardgrad data`: what the tasks are trained on."""

from __future__ import annotations

import json

import typer
from rich.console import Console

from forwardgrad.cli.shared import AsJson, plainly

app = typer.Typer(help="The data that tasks are trained on.", no_args_is_help=True)


@app.command("list")
@plainly
def data_list(as_json: AsJson = False) -> None:
    """What every task needs, where it was looked for, whether it is there, and its licence.

    FORWARDGRAD_DATA=~/data forwardgrad data list
    """
    from forwardgrad.train.inventory import inventory, inventory_table

    if as_json:
        typer.echo(json.dumps(inventory(), indent=1))
    else:
        Console().print(inventory_table())
