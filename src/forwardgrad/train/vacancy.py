"""Whether a new run may begin in a folder: never in the place of another, unless that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from forwardgrad.errors import CheckpointError, ConfigError, OutputError
from forwardgrad.train.comparison import PICTURE_NAME, RECORD_NAME, Contender, contenders_of
from forwardgrad.train.keeper import FOLDER as CHECKPOINTS
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import read_record
from forwardgrad.train.replaylog import FOLDER as REPLAYS

_SAVED = (RECORD_NAME, CHECKPOINTS, REPLAYS, PICTURE_NAME)


def check_vacant(output: OutputFolder, contenders: Sequence[Contender], *, again: bool = False) -> None:
    """Refuses a folder in which a new run would take the place of another; files of other kinds do no harm.

    Args:
        output: a folder that exists.
        contenders: of the new run.
        again: whether a finished run of the very same contenders may be replaced: the new one will come out the same.

    Raises:
        OutputError: there is a record, or something that a run has left.
    """
    there = next((name for name in _SAVED if _holds(output.path / name)), None)
    if there is None or (again and _finished(output.path / RECORD_NAME, contenders)):
        return
    going_on = f"say `forwardgrad resume {output.path}` to go on, " if there == RECORD_NAME else ""
    cure = f"{going_on}give --overwrite to begin again, or choose another folder with --out"
    raise OutputError("a new run needs a folder without another one", f"`{there}`", cure, path=str(output.path))


def _holds(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _finished(path: Path, contenders: Sequence[Contender]) -> bool:
    try:
        record = read_record(path)
        old = [(one.label, one.config.resolved()) for one in contenders_of(record)]
    except (CheckpointError, ConfigError):  # of another version
        return False
    return record.finished and old == [(one.label, one.config.resolved()) for one in contenders]
