"""`forwardgrad replay`: the weights again, from the slopes alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from forwardgrad.cli.shared import AsJson, plainly


@plainly
def replay(
    run: Annotated[Path, typer.Argument(help="The folder that --out named, or one replay log.")],
    save: Annotated[Path | None, typer.Option(help="Folder for the rebuilt weights, as safetensors.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the weights of forward-only runs from their slopes: no data, no forward pass, bit for bit.

    forwardgrad replay runs/train --save weights
    """
    from forwardgrad.train.replay import logs
    from forwardgrad.train.replayed import nothing_to_replay, replay_row, unlogged

    found, missing = logs(run), unlogged(run)
    if not found:
        raise nothing_to_replay(run, missing)
    rows = [replay_row(path, save) for path in found]
    for sentence in missing:
        typer.echo(f"{sentence}.", err=True)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        known = "the record's weights, bit for bit" if row["matches"] else "not in the record yet"
        done = f"{row['step']} of {row['steps']} steps from {row['kilobytes']:.1f} kB"
        typer.echo(f"{row['method']}, seed {row['seed']}: {done}; {known}; SHA-256 {row['weights']}")
