"""The order in which a run meets its data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator

from forwardgrad.train.tasks.task import Batch


class Batches(Iterator[Batch]):
    """Endless batches: every epoch a new permutation, its short last batch left out.

    A short batch would make the steps differ in cost; its samples come again in another order.

    Args:
        part: tensors with the samples along dimension 0.
        batch_size: samples per batch; larger than the part means all of it.
        generator: source of the permutations.
    """

    def __init__(self, part: Batch, batch_size: int, generator: Generator) -> None:
        self._part, self._generator = part, generator
        self._num_samples = len(part[0])
        self._size = min(batch_size, self._num_samples)
        self._begin()

    def __next__(self) -> Batch:
        start = (self.position + 1) * self._size
        if start > self._num_samples - self._size or self.epoch < 0:
            self._shuffle()
            start = 0
        self.position += 1
        # index_select: several times as fast as indexing, and a batch with storage of its own, so that what lands
        # on the tape is the batch and not the epoch.
        return tuple(tensor.index_select(0, self._order[start : start + self._size]) for tensor in self._part)

    def state_dict(self) -> dict[str, Any]:
        """The generator as the epoch found it, the epoch's number, and the last batch's place in it."""
        return {"generator": self._before, "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on behind the batch after which `state_dict` was taken."""
        self._generator.set_state(state["generator"])
        self._begin()
        if state["epoch"] >= 0:
            self._shuffle()
        self.epoch, self.position = state["epoch"], state["position"]

    def _begin(self) -> None:
        self.epoch, self.position = -1, -1  # of the batch handed out last
        self._before = self._generator.get_state()

    def _shuffle(self) -> None:
        self._before = self._generator.get_state()
        self._order = torch.randperm(self._num_samples, generator=self._generator)
        self.epoch, self.position = self.epoch + 1, -1


def batches(part: Batch, batch_size: int, generator: Generator) -> Batches:
    """`Batches` from the start."""
    return Batches(part, batch_size, generator)
