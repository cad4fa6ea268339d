"""Several methods on one task: the same seeds, the same data order, the same number of forward passes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from forwardgrad.errors import CheckpointError
from forwardgrad.train.config import RunConfig, build_config
from forwardgrad.train.interrupt import Stop, stoppable
from forwardgrad.train.keeper import Keeper, clear
from forwardgrad.train.lock import held
from forwardgrad.train.logs import check_logs, clear_logs, logging
from forwardgrad.train.loop import Progress, step_cost, train_run
from forwardgrad.train.methods import halved
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Cost, Entry, Failure, Record, Run
from forwardgrad.train.shortage import ShortageWarning, give_back, is_shortage, no_memory, shrinking
from forwardgrad.train.study.prepare import PARDONED, Preparation, failure_of
from forwardgrad.train.tasks.task import Splits
from forwardgrad.train.tensorbytes import fingerprint
from forwardgrad.train.threads import threads

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

    def trying(self, row: int, trial: int, trials: int, now: Progress) -> None:
        """Contender `row` is in its trial number `trial`, counted from 0."""

    def failed(self, row: int, failure: Failure) -> None:
        """Contender `row` will have no figure."""


def begin(contenders: Sequence[Contender], output: OutputFolder, *, depths: bool = False) -> Record:
    """A record without runs, saved: from here on `carry_on` can be interrupted and called again.

    Args:
        contenders: rows; all of one task.
        output: a probed folder; what an earlier command left there to go on from is removed.
        depths: whether memory on deeper nets is to be measured in the end.

    Raises:
        OutputError: the record cannot be saved, or another process is at work in the folder.
        MissingExtraError: a config asks for a log whose package is not there; nothing is touched.
    """
    check_logs([one.config for one in contenders])
    entries = [Entry(one.label, one.config.resolved().model_dump(mode="json")) for one in contenders]
    program, *arguments = sys.argv
    record = Record(command=[Path(program).name, *arguments], entries=entries, depths=depths)
    with held(output):
        output.write(RECORD_NAME, record.to_json())
        clear(output)
        clear_logs(output)
    return record


def contenders_of(record: Record) -> list[Contender]:
    """The rows that a record was begun with."""
    return [Contender(entry.label, build_config(entry.config)) for entry in record.entries]


def carry_on(record: Record, splits: Splits, output: OutputFolder, watcher: Watcher) -> Record:
    """Does the runs that a record still lacks, the unfinished one from its last checkpoint.

    Args:
        record: from `begin`, or read from `record.json`; its runs are kept.
        splits: the task's data.
        output: the record's folder; `record.json` in it is replaced after each run, so nothing finished is lost.
        watcher: hears of progress.

    Raises:
        NonFiniteError: a contender's loss is no longer finite.
        OutOfMemoryError: no memory is left for a step, however few tangents are pushed at once.
        OutputError: the record or a checkpoint cannot be saved, or another process is at work in the folder.
        CheckpointError: a run has checkpoints, and none of them is good; or the record was begun with other data.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the run under way has been saved.
    """
    save = lambda: output.write(RECORD_NAME, record.to_json())
    with held(output), stoppable() as stop:
        output.sweep()
        _same_data(record, splits, output)
        if record.study is not None:
            Preparation(record, splits, save, watcher, stop).run()
        with logging(watcher, record, output) as book:
            for row, (contender, entry) in enumerate(zip(contenders_of(record), record.entries, strict=True)):
                if entry.failure is not None:
                    continue
                try:
                    _carry_on(row, contender.config, entry, splits, output, book, stop, save)
                except PARDONED as error:
                    if record.study is None:
                        raise
                    entry.failure = failure_of(error)
                    save()
                    book.failed(row, entry.failure)
    record.finished = True
    save()
    return record


def _carry_on(
    row: int,
    config: RunConfig,
    entry: Entry,
    splits: Splits,
    output: OutputFolder,
    watcher: Watcher,
    stop: Stop,
    save: Callable[[], object],
) -> None:
    kept = {run.seed: run for run in entry.runs}
    with threads(config.threads):
        for index, seed in enumerate(config.seeds):
            if seed in kept:
                watcher.progress(row, index, _end(kept[seed]))
                continue
            keeper = Keeper.of(config, seed, row, output, stop)
            if entry.cost is None:
                entry.cost = entry.runs[0].cost if entry.runs else keeper.cost()
            if entry.cost is None:
                fitting, entry.cost = _fitted(config, splits)
                if fitting != config:
                    config, entry.config = fitting, fitting.resolved().model_dump(mode="json")
                    keeper = Keeper.of(config, seed, row, output, stop)
                save()
            run = train_run(config, splits, seed, entry.cost, partial(watcher.progress, row, index), keeper)
            entry.runs.append(run)
            save()
            keeper.close()
            watcher.finished(row, run)


def compare(contenders: Sequence[Contender], splits: Splits, output: OutputFolder, watcher: Watcher) -> Record:
    """Runs every contender with each of its seeds, and saves the record after every run.

    Seeds are paired: with equal seeds two contenders start from the same weights and meet the same batches. See
    `carry_on` for the arguments and what may go wrong.
    """
    return carry_on(begin(contenders, output), splits, output, watcher)


def _same_data(record: Record, splits: Splits, output: OutputFolder) -> None:
    """Notes the checksum of the data in a new record; CheckpointError where an old one has another."""
    now = fingerprint(splits)
    if record.data and record.data != now:
        task = build_config(record.entries[0].config).task
        needs, found = f"going on needs the data that the run began with, of SHA-256 {record.data}", f"SHA-256 {now}"
        cure = "put back the files that were there, or begin a new run with `forwardgrad train`"
        raise CheckpointError(needs, found, cure, path=task.source.look().place or str(output.path / RECORD_NAME))
    if not record.data:
        record.data = now
        output.write(RECORD_NAME, record.to_json())


def _fitted(config: RunConfig, splits: Splits) -> tuple[RunConfig, Cost]:
    """The config with as many tangents at once as memory has room for, and what a step then takes."""
    while True:
        try:
            return config, step_cost(config, splits)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            smaller = halved(config.method)
            if smaller is None:
                raise no_memory(config.method, "none left when a first step was measured", "") from error
        give_back()
        warnings.warn(shrinking(config.method, smaller, "the first step"), ShortageWarning, stacklevel=3)
        config = config.model_copy(update={"method": smaller})


def _end(run: Run) -> Progress:
    """The end of a run that is already there."""
    last = run.curve[-1]
    return Progress(last.step, last.step, run.cost, last, run.curve)
