"""Runs that end in the middle, from within: what a kill does to them, without a process of its own."""

from __future__ import annotations

from forwardgrad.train.report import Silence


class Killed(BaseException):
    """What no code catches, in place of a signal."""


class Killing(Silence):
    """Ends the command when it hears of a step, a trial or a run for the n-th time."""

    def __init__(self, countdown: int, how: type[BaseException] = Killed) -> None:
        self.countdown, self.how = countdown, how

    def progress(self, row, seed_index, now) -> None:
        self.countdown -= 1
        if self.countdown == 0:
            raise self.how

    def trying(self, row, trial, trials, now) -> None:
        self.progress(row, 0, now)
