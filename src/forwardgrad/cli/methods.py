"""`forwardgrad methods`: the passports."""

from __future__ import annotations

import json

import typer

from forwardgrad.cli.shared import AsJson, console, plainly


@plainly
def methods(as_json: AsJson = False) -> None:
    """What each method must know, what it costs and holds, and how its estimate spreads."""
    from forwardgrad.train.passports import passports, passports_table

    if as_json:
        typer.echo(json.dumps(passports(), indent=1))
    else:
        console().print(passports_table())
