"""`forwardgrad data`: what the tasks are trained on."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from forwardgrad.cli.shared import AsJson, Quiet, plainly

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


@app.command("fetch")
@plainly
def data_fetch(
    task: Annotated[str, typer.Argument(help="One of those that `forwardgrad data list` names.")], quiet: Quiet = False
) -> None:
    """Fetch what a task needs, with internet, into FORWARDGRAD_DATA, or into a cache folder where that is unset.

    FORWARDGRAD_DATA=~/data forwardgrad data fetch mnist
    """
    from forwardgrad.train.fetch import fetch, fetcher_of

    fetcher = fetcher_of(task)
    if fetcher.files.look().present and fetcher.intact:
        typer.echo(f"Already there: {fetcher.files.target}")
        return
    console = Console(stderr=True, quiet=quiet)
    with console.status(f"Fetching `{task}` from {fetcher.origin} ..."):
        done = fetch(task, fetcher)
    typer.echo(f"Fetched {', '.join(done.names)} into {done.folder}, with their SHA-256 in {done.manifest.name}")
