"""Points as event files for TensorBoard."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Point

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from forwardgrad.train.logs import Place

FOLDER = "tensorboard"
_EVENTS = "events.out.tfevents.*"
TAGS = {
    "train_loss": "loss/training",
    "validation_loss": "loss/validation",
    "validation_accuracy": "accuracy/validation",
    "slope_mean": "slopes/mean",
    "slope_deviation": "slopes/standard deviation",
    "gradient_ratio": "slopes/gradient norm ratio",
    "cosine": "probe/cosine",
    "probe_error": "probe/relative squared error",
    "forwards": "cost/forward passes",
    "seconds": "cost/seconds",
}


class TensorBoard:
    """A folder of event files per run, `tensorboard/ROW-seedN`.

    Args:
        output: the command's folder.
    """

    def __init__(self, output: OutputFolder) -> None:
        self._output = output
        self._writer: SummaryWriter | None = None

    def start(self, place: Place) -> None:
        """Begins the run's folder anew."""
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        folder = self._output.path / FOLDER / f"{place.row}-seed{place.seed}"
        OutputFolder(folder).ready()
        for path in folder.glob(_EVENTS):
            path.unlink()
        self._writer = SummaryWriter(str(folder))

    def write(self, place: Place, point: Point) -> None:
        """A scalar for every figure of the point."""
        if self._writer is None:
            return
        for name, tag in TAGS.items():
            if (value := getattr(point, name)) is not None:
                self._writer.add_scalar(tag, value, point.step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def clear(output: OutputFolder) -> None:
    """Removes the event files that an earlier command left in a folder."""
    for path in (output.path / FOLDER).glob(f"*-seed*/{_EVENTS}"):
        with suppress(OSError):
            path.unlink()
