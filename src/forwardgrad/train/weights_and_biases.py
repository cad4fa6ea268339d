"""Points as runs of Weights & Biases."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Point, Record

if TYPE_CHECKING:
    from forwardgrad.train.logs import Place


class WeightsAndBiases:
    """One W&B run per run of ours, under an id of its own, so that a run that goes on stays one run there too.

    Args:
        project: to put the runs in.
        output: the command's folder, where W&B keeps its files.
        record: of the command: when it was begun and with which configs.
    """

    def __init__(self, project: str, output: OutputFolder, record: Record) -> None:
        self._project, self._output, self._record = project, output, record
        self._run: Any = None

    def start(self, place: Place) -> None:
        """Opens the run, or goes on with it where the server has a part of it."""
        import wandb

        self.close()
        identity = f"{self._output.path.resolve()}/{self._record.created}/{place.row}/{place.seed}"
        self._run = wandb.init(
            project=self._project,
            name=f"{place.label}, seed {place.seed}",
            group=f"{self._output.path.name} {self._record.created}",
            id=hashlib.sha256(identity.encode()).hexdigest()[:16],
            resume="allow",
            dir=str(self._output.path),
            config=self._record.entries[place.row].config | {"seed": place.seed},
        )

    def write(self, place: Place, point: Point) -> None:
        """The figures of the point; those of steps that the server has already are left out."""
        if self._run is None or (self._run.resumed and point.step < self._run.step):
            return
        figures = {name: value for name, value in asdict(point).items() if value is not None and name != "step"}
        self._run.log(figures, step=point.step)

    def close(self) -> None:
        """Finishes the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None
