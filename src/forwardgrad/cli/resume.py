"""`forwardgrad resume`: goes on where a run was cut off."""

from __future__ import annotations

from forwardgrad.cli.running import finish, painter
from forwardgrad.cli.shared import AsJson, Quiet, RunFolder, plainly


@plainly
def resume(run: RunFolder, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Go on with a run that was killed or interrupted, bit for bit as if it had not been.

    forwardgrad resume runs/train
    """
    from forwardgrad.train.comparison import RECORD_NAME, contenders_of
    from forwardgrad.train.lock import held
    from forwardgrad.train.output import OutputFolder
    from forwardgrad.train.record import read_record

    draw = painter()
    read_record(run / RECORD_NAME)  # where there is none, the folder is left as it is
    with held(OutputFolder(run).probe()):
        record = read_record(run / RECORD_NAME)  # as the process before this one has left it
        splits = contenders_of(record)[0].config.task.load()
        finish(record, splits, OutputFolder(run), draw, as_json, quiet)
