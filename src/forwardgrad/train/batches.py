"""The order in which a run meets its data."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator

from forwardgrad.train.tasks.task import Batch


def batches(part: Batch, batch_size: int, generator: Generator) -> Iterator[Batch]:
    """Endless batches: every epoch a new permutation, its short last batch left out.

    A short batch would make the steps differ in cost; its samples come again in another order.

    Args:
        part: tensors with the samples along dimension 0.
        batch_size: samples per batch; larger than the part means all of it.
        generator: source of the permutations.
    """
    num_samples = len(part[0])
    size = min(batch_size, num_samples)
    while True:
        order = torch.randperm(num_samples, generator=generator)
        for start in range(0, num_samples - size + 1, size):
            # index_select: several times as fast as indexing, and a batch with storage of its own, so that what lands
            # on the tape is the batch and not the epoch.
            yield tuple(tensor.index_select(0, order[start : start + size]) for tensor in part)
