"""`forwardgrad methods`: the passports."""

from __future__ import annotations

import json

import typer
from rich.console import Console

from forwardgrad.cli.shared import AsJson, plainly


@plainly
def methods(as_json: AsJson = False) -> None:
    """What each method must know, what it costs and holds, and how its estimate spreads."""
    from forwardgrad.train.passports import passports, passports_table

    if as_json:
        typer.echo(json.dumps(passports(), indent=1))
    else:
        Console().print(passports_table())
