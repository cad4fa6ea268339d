"""The rows of a comparison before anything was measured; backprop and its checkpointed forms are always in it."""

from __future__ import annotations

import sys

from forwardgrad.train.comparison import RECORD_NAME
from forwardgrad.train.config import RunConfig
from forwardgrad.train.keeper import clear
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Entry, Record
from forwardgrad.train.study.config import StudyConfig
from forwardgrad.train.study.spelling import label_of

_SHARED = ("task", "forwards", "seconds", "seeds", "momentum", "schedule", "evaluations", "checkpoints", "threads")


def rows_of(config: StudyConfig) -> list[Entry]:
    """One entry per method: the rivals first, then what the config names, in its order.

    Args:
        config: of the comparison.
    """
    shared = {key: getattr(config, key) for key in _SHARED}
    runs = [RunConfig(method=method, lr=config.rate_of(method), **shared) for method in config.lineup]
    if not config.tuning.trials:
        runs = [run.model_copy(update={"lr": run.learning_rate}) for run in runs]
    return [Entry(label_of(run.method), run.model_dump(mode="json")) for run in runs]


def begin_study(config: StudyConfig, output: OutputFolder, command: list[str] | None = None) -> Record:
    """A record without runs, saved: from here on `carry_on` can be interrupted and called again.

    Args:
        config: of the comparison.
        output: a probed folder; what an earlier command left there to go on from is removed.
        command: that asked for it; this process's own where unset.

    Raises:
        OutputError: the record cannot be saved.
    """
    record = Record(command or list(sys.argv), rows_of(config), study=config.model_dump(mode="json"))
    output.write(RECORD_NAME, record.to_json())
    clear(output)
    return record
