"""All that must be known before the runs of a comparison: the budget, costs, batches, learning rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from forwardgrad.errors import (
    ForwardGradError,
    LostTangentError,
    NonFiniteError,
    OutOfMemoryError,
    ParameterChangedError,
    RungError,
    UnsupportedError,
)
from forwardgrad.train.budget import num_steps
from forwardgrad.train.config import RunConfig, build_config, validated
from forwardgrad.train.interrupt import Stop
from forwardgrad.train.loop import Progress, step_cost, step_seconds
from forwardgrad.train.record import Entry, Failure, Record, Trial
from forwardgrad.train.shortage import is_shortage, no_memory
from forwardgrad.train.study.config import StudyConfig
from forwardgrad.train.study.fit import DoesNotFitError, largest_batch
from forwardgrad.train.study.rates import best_of
from forwardgrad.train.study.tuner import search
from forwardgrad.train.tasks.task import Splits
from forwardgrad.train.threads import threads

# What one method may meet without spoiling the comparison of the others.
PARDONED = (
    DoesNotFitError,
    LostTangentError,
    NonFiniteError,
    OutOfMemoryError,
    ParameterChangedError,
    RungError,
    UnsupportedError,
)

_ROUNDS = 2  # in which every method is timed once more


class Listener(Protocol):
    """Hears of trials and failures, to show them."""

    def trying(self, row: int, trial: int, trials: int, now: Progress) -> None:
        """Contender `row` is in its trial number `trial`, counted from 0."""

    def failed(self, row: int, failure: Failure) -> None:
        """Contender `row` will have no figure."""


@dataclass
class Preparation:
    """Fills in what a record of a comparison lacks before its runs; can be cut off anywhere, and called again.

    Args:
        record: from `begin_study`, or read from a folder.
        splits: the task's data.
        save: saves the record.
        listener: hears of progress.
        stop: tells whether to stop.
    """

    record: Record
    splits: Splits
    save: Callable[[], object]
    listener: Listener
    stop: Stop

    def run(self) -> None:
        """Measures, fits and tunes, in that order.

        Raises:
            MissingExtraError: optuna is not installed, and there is something to tune.
            KeyboardInterrupt: told to stop; finished trials are saved.
        """
        study = validated(self.record.study or {}, StudyConfig)
        with threads(study.threads):
            self._settle_budget()
            self._measure(study)
            for row, entry in enumerate(self.record.entries):
                if entry.config["lr"] is None and entry.failure is None:
                    self._guarded(row, entry, partial(self._tune, row, entry, study))
                    self.save()

    def _settle_budget(self) -> None:
        # Without a budget of its own a comparison gives everyone what backprop spends in the task's epochs.
        config = build_config(self.record.entries[0].config)
        if config.forwards is None and config.seconds is None:
            cost = step_cost(config, self.splits)
            forwards = num_steps(config, self.splits, cost) * cost.forward_passes
            for entry in self.record.entries:
                entry.config["forwards"] = forwards
            self.save()

    def _measure(self, study: StudyConfig) -> None:
        waiting = {row: entry for row, entry in enumerate(self.record.entries) if entry.cost is None}
        for row, entry in waiting.items():
            if entry.failure is None:
                self._guarded(row, entry, partial(self._fit_and_measure, entry, study))
        for _ in range(_ROUNDS if study.seconds is not None else 0):
            # By turns: a machine that is busy for a moment is then slow for everyone.
            for entry in waiting.values():
                if entry.cost is not None and entry.cost.seconds is not None:
                    self._check()
                    again = step_seconds(build_config(entry.config), self.splits)
                    entry.cost = replace(entry.cost, seconds=min(again, entry.cost.seconds))
        self.save()

    def _fit_and_measure(self, entry: Entry, study: StudyConfig) -> None:
        config = build_config(entry.config)
        if study.peak is not None:
            config = largest_batch(config, self.splits, study.peak, self._check)
            entry.config = config.model_dump(mode="json")
        self._check()
        entry.cost = step_cost(config, self.splits)

    def _tune(self, row: int, entry: Entry, study: StudyConfig) -> None:
        config, cost, tuning = build_config(entry.config), entry.cost, study.tuning
        leader = self._leader(entry, config, tuning.trials)
        if leader is entry and cost is not None:
            hear = lambda now: self._hear(row, len(entry.trials), tuning.trials, now)
            search(config, self.splits, cost, tuning, entry.trials, hear, lambda trial: self.save())
        best = best_of(leader.trials)
        if best is None:
            raise NonFiniteError(*_all_diverged(leader.trials))
        entry.config["lr"] = best.lr

    def _leader(self, entry: Entry, config: RunConfig, trials: int) -> Entry:
        """Whose trials count: exact methods have one gradient, so at the same batch the first of them tries for all."""
        alike = (
            other
            for other in self.record.entries
            if len(other.trials) == trials
            and build_config(other.config).method.exact
            and other.config["task"] == entry.config["task"]
        )
        return next(alike, entry) if config.method.exact else entry

    def _guarded(self, row: int, entry: Entry, work: Callable[[], None]) -> None:
        try:
            work()
        except PARDONED as error:
            entry.failure = failure_of(error)
            self.listener.failed(row, entry.failure)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            entry.failure = failure_of(no_memory(build_config(entry.config).method, "none left", ""))
            self.listener.failed(row, entry.failure)

    def _hear(self, row: int, trial: int, trials: int, now: Progress) -> None:
        self._check()
        self.listener.trying(row, trial, trials, now)

    def _check(self) -> None:
        if self.stop.asked:
            raise KeyboardInterrupt


def failure_of(error: ForwardGradError) -> Failure:
    """What a row says in place of a figure."""
    match error:
        case DoesNotFitError():
            short = "does not fit"
        case NonFiniteError():
            short = "diverged"
        case OutOfMemoryError():
            short = "out of memory"
        case _:
            short = "cannot run"
    return Failure(short, str(error))


def _all_diverged(tried: list[Trial]) -> tuple[str, str, str]:
    rates = sorted(trial.lr for trial in tried)
    found = f"none among {len(rates)} from {rates[0]:.3g} to {rates[-1]:.3g}"
    return "tuning needs one learning rate that does not diverge", found, "raise tuning.span"
