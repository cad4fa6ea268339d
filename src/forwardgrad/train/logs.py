"""What is written while a run trains: a line of JSON per point, and the same for TensorBoard and W&B where asked.

A log only repeats the curve, which checkpoints and the record hold: a run that goes on writes its part of the log anew,
so that no step is missing and none is there twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from typing import TYPE_CHECKING, Protocol

from forwardgrad.errors import MissingExtraError
from forwardgrad.train.config import RunConfig, build_config
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Failure, Point, Record, Run

if TYPE_CHECKING:
    from forwardgrad.train.comparison import Watcher
    from forwardgrad.train.loop import Progress

LOG_NAME = "log.jsonl"


@dataclass(frozen=True)
class Place:
    """Which run of a command.

    Args:
        row: place of the method in the record.
        label: the method.
        seed: of the run.
    """

    row: int
    label: str
    seed: int


class Log(Protocol):
    """Where points go."""

    def start(self, place: Place) -> None:
        """The points of a run follow, from its first one; what was there of it is void."""

    def write(self, place: Place, point: Point) -> None:
        """A point of the run that started last."""

    def close(self) -> None:
        """No more points."""


class JsonLines:
    """`log.jsonl`: one line per point, handed to the operating system at once.

    Args:
        output: the command's folder.
        record: its finished runs are written anew.
    """

    def __init__(self, output: OutputFolder, record: Record) -> None:
        self._output = output
        self._path = output.write(LOG_NAME, b"".join(_finished_lines(record)))
        self._file: TextIOWrapper | None = None

    def start(self, place: Place) -> None:
        """Nothing is left of a run that has not finished: its lines went with the old file."""

    def write(self, place: Place, point: Point) -> None:
        """Appends a line; OutputError where it cannot be written."""
        try:
            self._file = self._file or self._path.open("a", encoding="utf-8")
            self._file.write(_line(place, point))
            self._file.flush()
        except OSError as error:
            raise self._output.refusal(error) from error

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Logbook:
    """A watcher that writes every point of every run to the logs that its config names, and passes everything on.

    Args:
        watcher: hears of everything too.
        record: of the command; its finished runs are in the logs already.
        output: its folder.
    """

    def __init__(self, watcher: Watcher, record: Record, output: OutputFolder) -> None:
        self._watcher = watcher
        self._entries = [(entry.label, build_config(entry.config)) for entry in record.entries]
        self._written = {
            Place(row, entry.label, run.seed): len(run.curve)
            for row, entry in enumerate(record.entries)
            for run in entry.runs
        }
        self._json = JsonLines(output, record)
        self._further = [list(_further(config, output, record)) for _, config in self._entries]

    def progress(self, row: int, seed_index: int, now: Progress) -> None:
        """Writes the points that are new."""
        label, config = self._entries[row]
        place = Place(row, label, config.seeds[seed_index])
        logs: Sequence[Log] = (self._json, *self._further[row])
        if place not in self._written:
            self._written[place] = 0
            for log in logs:
                log.start(place)
        for point in now.curve[self._written[place] :]:
            for log in logs:
                log.write(place, point)
        self._written[place] = len(now.curve)
        self._watcher.progress(row, seed_index, now)

    def finished(self, row: int, run: Run) -> None:
        """Passes it on."""
        self._watcher.finished(row, run)

    def trying(self, row: int, trial: int, trials: int, now: Progress) -> None:
        """Passes it on: trials are the study's, which keeps them itself."""
        self._watcher.trying(row, trial, trials, now)

    def failed(self, row: int, failure: Failure) -> None:
        """Passes it on."""
        self._watcher.failed(row, failure)

    def close(self) -> None:
        """Closes every log."""
        for log in (self._json, *(log for logs in self._further for log in logs)):
            log.close()


@contextmanager
def logging(watcher: Watcher, record: Record, output: OutputFolder) -> Iterator[Logbook]:
    """A logbook, closed whatever happens inside; see `Logbook` for the arguments.

    Raises:
        OutputError: the log cannot be written.
        MissingExtraError: a config asks for a log whose package is not there.
    """
    book = Logbook(watcher, record, output)
    try:
        yield book
    finally:
        book.close()


def check_logs(configs: Sequence[RunConfig]) -> None:
    """Raises MissingExtraError where a config asks for a log whose package is not there."""
    if any(config.logs.tensorboard for config in configs):
        with _needing("tensorboard"):
            import torch.utils.tensorboard  # noqa: F401
    if any(config.logs.wandb for config in configs):
        with _needing("wandb"):
            import wandb  # noqa: F401


def clear_logs(output: OutputFolder) -> None:
    """Removes the logs that an earlier command left in a folder."""
    from forwardgrad.train.tensorboard import clear

    output.path.joinpath(LOG_NAME).unlink(missing_ok=True)
    clear(output)


def _further(config: RunConfig, output: OutputFolder, record: Record) -> Iterator[Log]:
    check_logs([config])
    if config.logs.tensorboard:
        from forwardgrad.train.tensorboard import TensorBoard

        yield TensorBoard(output)
    if config.logs.wandb:
        from forwardgrad.train.weights_and_biases import WeightsAndBiases

        yield WeightsAndBiases(config.logs.wandb, output, record)


@contextmanager
def _needing(package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        needs, cure = f"logs need {package} where a config asks for it", f"pip install forwardgrad[{package}]"
        raise MissingExtraError(needs, "no such package", cure, path=f"logs.{package}") from error


def _finished_lines(record: Record) -> Iterator[bytes]:
    for row, entry in enumerate(record.entries):
        for run in entry.runs:
            for point in run.curve:
                yield _line(Place(row, entry.label, run.seed), point).encode()


def _line(place: Place, point: Point) -> str:
    return json.dumps(asdict(place) | asdict(point), allow_nan=False) + "\n"
