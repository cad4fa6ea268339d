"""What a run leaves behind: plain numbers, one JSON document, one format for every command."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from forwardgrad.errors import CheckpointError

FORMAT = "forwardgrad.record/1"
_PACKAGES = ("forwardgrad", "torch", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Point:
    """One place on a run's curve.

    Args:
        step: optimizer steps taken.
        forwards: forward passes spent, counted by FLOPs; evaluations, the same for all, are not.
        seconds: time spent in steps, evaluations left out.
        train_loss: mean over the steps since the point before (the first point: None).
        validation_loss: on the whole validation part.
        validation_accuracy: on the whole validation part; None where the task has no accuracy.
        slope_mean: of all slopes of the steps since the point before; None for exact methods,
        slope_deviation: and their standard deviation, which estimates the norm of the gradient.
        gradient_ratio: norm of the last step's estimate over the root mean square of its slopes.
        cosine: of estimate and gradient on the probe batch, mean over keys; None where there is no probe,
        probe_error: and the mean of |estimate - gradient|^2 / |gradient|^2.
    """

    step: int
    forwards: float
    seconds: float
    train_loss: float | None
    validation_loss: float
    validation_accuracy: float | None
    slope_mean: float | None = None
    slope_deviation: float | None = None
    gradient_ratio: float | None = None
    cosine: float | None = None
    probe_error: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """The greater the better on the validation part: by accuracy where there is one, then by loss."""
        return self.validation_accuracy or 0.0, -self.validation_loss


@dataclass(frozen=True)
class Cost:
    """What one step takes, from `fg.measure` on the first batch."""

    forward_passes: float
    peak_bytes: int
    tape_bytes: int
    seconds: float | None = None  # where the budget is in seconds: the best of several stretches of steps


@dataclass(frozen=True)
class Trial:
    """One learning rate tried, and the best figures on the validation part that came of it, means over tuning seeds.

    Args:
        lr: learning rate at the start.
        loss: None where it diverged.
        accuracy: None where it diverged, or the task has none.
    """

    lr: float
    loss: float | None
    accuracy: float | None

    @property
    def rank(self) -> tuple[float, float]:
        """The greater the better; what diverged ranks below everything."""
        return (self.accuracy or 0.0, -self.loss) if self.loss is not None else (-math.inf, -math.inf)


@dataclass(frozen=True)
class Failure:
    """Why a method of a comparison has no figure: a word or two for its row, and the whole sentence."""

    short: str
    sentence: str


@dataclass(frozen=True)
class Run:
    """One method, one seed.

    Args:
        seed: of weights, data order, dropout and tangents.
        cost: of one step.
        curve: points in order of time.
        best_step: the step whose weights did best on the validation part; only these met the test part.
        test_loss: of those weights.
        test_accuracy: of those weights; None where the task has no accuracy.
        weights: checksum of the final weights, to compare two runs bit for bit.
        chunk_size: tangents pushed at once in the last step; None for all, or where none are pushed.
    """

    seed: int
    cost: Cost
    curve: tuple[Point, ...]
    best_step: int
    test_loss: float
    test_accuracy: float | None
    weights: str
    chunk_size: int | None = None


@dataclass(frozen=True)
class Deeper:
    """What a step holds on a net of so many residual blocks, over weights and batch."""

    blocks: int
    peak_bytes: int
    tape_bytes: int


@dataclass
class Entry:
    """All runs of one method, under one config.

    Args:
        label: the method's name in tables.
        config: of its runs; `lr` is None until it has been tuned.
        runs: one per seed.
        deeper: memory on deeper nets, where that was asked for.
        cost: of one step, measured before the first run.
        trials: learning rates tried.
        failure: why it has no figure; None for a method that has, or may still get one.
    """

    label: str
    config: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    deeper: list[Deeper] = field(default_factory=list)
    cost: Cost | None = None
    trials: list[Trial] = field(default_factory=list)
    failure: Failure | None = None


@dataclass
class Record:
    """A whole command: who ran what, with which versions, and every curve.

    Args:
        command: the arguments of the process.
        entries: one per method.
        finished: whether all runs are there.
        depths: whether `deeper` is to be filled in after them.
        study: the config of a comparison with tuning; None for runs whose settings are given.
        data: checksum of the splits that the runs meet; empty until the first of them begins.
        created: when, in UTC.
        versions: of Python, the platform and the packages that decide a result.
        format: of this document.
    """

    command: list[str]
    entries: list[Entry]
    finished: bool = False
    depths: bool = False
    study: dict[str, Any] | None = None
    data: str = ""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = field(default_factory=lambda: versions())
    format: str = FORMAT

    def to_json(self) -> bytes:
        """The record as an indented JSON document."""
        return (json.dumps(asdict(self), indent=1, allow_nan=False) + "\n").encode()


def read_record(path: Path) -> Record:
    """The record that a command left, finished or not.

    Raises:
        CheckpointError: there is none, or it is of another format.
    """
    needs = "a run folder needs the record that training began with"
    try:
        tree = json.loads(path.read_bytes())
        if tree["format"] != FORMAT:
            raise CheckpointError(needs, f"format {tree['format']}", "use the version that wrote it", path=str(path))
        return TypeAdapter(Record).validate_python(tree)
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        found, cure = error.strerror or str(error), "give the folder named with --out"
        raise CheckpointError(needs, found, cure, path=str(path)) from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        found = f"something else ({str(error).splitlines()[0]})"
        raise CheckpointError(needs, found, "give the folder named with --out", path=str(path)) from error


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Versions of Python, the platform and the packages that decide a result."""
    found = {"python": platform.python_version(), "platform": sys.platform, "machine": platform.machine()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
