"""What one run puts aside while it trains: when a checkpoint is due, and what becomes of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any

from torch import nn

from forwardgrad.estimate import Method
from forwardgrad.train.checkpoint import Checkpoints
from forwardgrad.train.config import RunConfig
from forwardgrad.train.interrupt import Stop
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Cost
from forwardgrad.train.replay import Logged, replayable
from forwardgrad.train.replaylog import FOLDER as REPLAY
from forwardgrad.train.replaylog import SUFFIX
from forwardgrad.train.replaywriter import Writer
from forwardgrad.train.space import check_space, checkpoint_bytes, log_bytes
from forwardgrad.train.state import Moving

FOLDER = "checkpoints"
_TENTHS = 10
_PAUSE = 1.0  # seconds: less work than that is not worth a checkpoint that nobody asked for


@dataclass
class Keeper:
    """Saves one run, and gives it back.

    Args:
        checkpoints: where.
        every: steps between two checkpoints; None for tenths of the run, the hasty ones left out.
        stop: tells whether the run is to stop.
    """

    checkpoints: Checkpoints
    every: int | None
    stop: Stop = field(default_factory=Stop)
    _last: float = field(default_factory=monotonic)
    _saved: dict[str, Any] | None = None

    @classmethod
    def of(cls, config: RunConfig, seed: int, row: int, output: OutputFolder, stop: Stop) -> Keeper:
        """The keeper of one run of a command.

        Args:
            config: of the run,
            seed: and its seed: what a checkpoint must share to continue it.
            row: place of the method in the record.
            output: the command's folder.
            stop: tells whether the run is to stop.
        """
        identity = {"config": config.resolved().model_dump(mode="json"), "seed": seed}
        folder = OutputFolder(output.path / FOLDER).ready()
        saving = config.checkpoints
        return cls(Checkpoints(folder, f"{row}-seed{seed}", saving.keep, identity), saving.every, stop)

    def logged(self, config: RunConfig, method: Method, model: nn.Module) -> Logged | None:
        """The method with its replay log; None where slopes and keys do not decide the run.

        Args:
            config: of the run.
            method: what it built.
            model: what it trains.
        """
        if not replayable(method, model):
            return None
        folder = OutputFolder(self.checkpoints.output.path.parent / REPLAY).ready()
        identity = self.checkpoints.identity
        writer = Writer(folder, self.checkpoints.stem + SUFFIX)
        return Logged(method, writer, identity["config"], identity["seed"])

    def marks(self, steps: int) -> set[int]:
        """The steps at which a checkpoint is due; the last step is always one.

        Args:
            steps: of the whole run.
        """
        every = self.every or ceil(steps / _TENTHS)
        return {*range(every, steps, every), steps}

    def due(self, moving: Moving) -> bool:
        """Whether the checkpoint at a mark is worth its while."""
        return self.every is not None or moving.step == moving.steps or monotonic() - self._last > _PAUSE

    def save(self, moving: Moving) -> Path:
        """Writes a checkpoint.

        Raises:
            OutputError: it cannot be written; the ones before are untouched.
        """
        path = self.checkpoints.save(moving.step, moving.tree())
        self._last = monotonic()
        return path

    def cost(self) -> Cost | None:
        """What a step was found to take, where the run has a checkpoint: measured again it might differ a little.

        Raises:
            CheckpointError: there are checkpoints, and none of them is good.
        """
        self._saved = self.checkpoints.latest()
        return Cost(**self._saved["cost"]) if self._saved else None

    def resume(self, moving: Moving) -> bool:
        """Takes `moving` to the newest checkpoint; False where there is none.

        Raises:
            CheckpointError: there are checkpoints, and none of them is good.
        """
        saved, self._saved = self._saved or self.checkpoints.latest(), None
        if saved:
            moving.restore(saved)
        return saved is not None

    def close(self) -> None:
        """The run is finished and recorded: of its checkpoints the last one stays, with the weights."""
        self.checkpoints.prune(1)

    def check_space(self, moving: Moving, momentum: float, num_tangents: int) -> None:
        """Asks for room for all the checkpoints there will be, one more while it is written, and the replay log.

        Args:
            moving: the run, at its beginning or where it goes on.
            momentum: of its optimizer.
            num_tangents: slopes a step adds to its replay log; 0 where it has none.

        Raises:
            OutputError: there is less room than that.
        """
        still = max(1, self.checkpoints.keep + 1 - self.checkpoints.count())
        needed = still * checkpoint_bytes(moving, momentum)
        check_space(self.checkpoints.output, needed + (log_bytes(moving, num_tangents) if num_tangents else 0))


def clear(output: OutputFolder) -> None:
    """Removes the checkpoints and replay logs that an earlier command left in a folder."""
    checkpoints = (output.path / FOLDER).glob("*-seed*-step*.safetensors")
    for path in (*checkpoints, *(output.path / REPLAY).glob(f"*-seed*{SUFFIX}")):
        with suppress(OSError):
            path.unlink()
