"""`forwardgrad resume`: goes on where a run was cut off."""

from __future__ import annotations

import warnings

import typer

from forwardgrad.cli.running import finish, painter
from forwardgrad.cli.shared import AsJson, Quiet, RunFolder, plainly


@plainly
def resume(run: RunFolder, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Go on with a run that was killed or interrupted, bit for bit as if it had not been.

    forwardgrad resume runs/train
    """
    from forwardgrad.train.comparison import RECORD_NAME, contenders_of
    from forwardgrad.train.output import OutputFolder
    from forwardgrad.train.record import read_record

    draw, record = painter(), read_record(run / RECORD_NAME)
    splits = contenders_of(record)[0].config.task.load()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: typer.echo(str(message), err=True)
        finish(record, splits, OutputFolder(run).probe(), draw, as_json, quiet)
