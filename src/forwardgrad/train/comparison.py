"""Several methods on one task: the same seeds, the same data order, the same number of forward passes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from forwardgrad.train.config import RunConfig
from forwardgrad.train.loop import Progress, step_cost, train_run
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Entry, Record, Run
from forwardgrad.train.tasks.task import Splits

RECORD_NAME, PICTURE_NAME = "record.json", "curves.png"


@dataclass(frozen=True)
class Contender:
    """One row of a comparison: a label and the config behind it."""

    label: str
    config: RunConfig


class Watcher(Protocol):
    """Hears of everything that happens, to show it."""

    def progress(self, row: int, seed_index: int, now: Progress) -> None:
        """Contender `row` moved on."""

    def finished(self, row: int, run: Run) -> None:
        """Contender `row` finished one seed."""


def compare(contenders: Sequence[Contender], splits: Splits, output: OutputFolder, watcher: Watcher) -> Record:
    """Runs every contender with each of its seeds, and saves the record after every run.

    Seeds are paired: with equal seeds two contenders start from the same weights and meet the same batches.

    Args:
        contenders: rows; all of one task.
        splits: that task's data.
        output: a probed folder; `record.json` in it is replaced after each run, so nothing finished is lost.
        watcher: hears of progress.

    Raises:
        NonFiniteError: a contender's loss is no longer finite.
        OutputError: the record cannot be saved.
    """
    entries = [Entry(one.label, one.config.resolved().model_dump(mode="json")) for one in contenders]
    record = Record(command=list(sys.argv), entries=entries)
    for row, (contender, entry) in enumerate(zip(contenders, entries, strict=True)):
        config = contender.config
        with threads(config.threads):
            cost = step_cost(config, splits)
            for index, seed in enumerate(config.seeds):
                run = train_run(config, splits, seed, cost, partial(watcher.progress, row, index))
                entry.runs.append(run)
                output.write(RECORD_NAME, record.to_json())
                watcher.finished(row, run)
    record.finished = True
    output.write(RECORD_NAME, record.to_json())
    return record


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch works with so many threads inside the block; small nets wait for each other's threads, not for work."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
