"""What a task is: data in three parts, a model, a loss, a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Generator, Tensor, nn

from forwardgrad.train.tasks.sources import Source

Batch = tuple[Tensor, ...]  # every tensor with the samples along dimension 0


class Splits(NamedTuple):
    """The three parts of a data set: trained on, selected on, reported on."""

    train: Batch
    validation: Batch
    test: Batch


class Score(NamedTuple):
    """How a model does on one part: mean loss, and the share of samples it gets right.

    Where nothing can be got right, accuracy is None, and models rank by their loss.
    """

    loss: float
    accuracy: float | None


class Task(Protocol):
    """Everything the loop must know about a task; a task is one file and one line in `tasks/__init__.py`."""

    name: str
    batch_size: int
    epochs: float  # passes over the training part, where the config sets no budget
    learning_rates: Mapping[str, float]  # by name of the method, where the config sets none
    source: Source  # what must be there to load it
    remark: str  # what a reader of its results must know; empty for nothing

    def load(self) -> Splits:
        """Reads the data; raises DataError where it is missing."""

    def build(self, generator: Generator) -> nn.Module:
        """A fresh model; every random number in it comes from `generator`."""

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Scalar training loss of one batch."""

    def score(self, model: nn.Module, part: Batch) -> Score:
        """Loss and accuracy (None where it does not apply) on a whole part, without gradients."""
