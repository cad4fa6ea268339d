"""Every generator a model, a loss or a task may draw from: seeded for a run, saved with it, and put back after it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forwardgrad.train.checkpoint import CheckpointWarning
from forwardgrad.train.seeding import derived_seed

_NUMPY = "MT19937"  # the one generator behind numpy.random's functions


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch, numpy and Python draw what the seed says; outside, all is as it was.

    Args:
        seed: of the run.
    """
    before = random_state()
    torch.manual_seed(derived_seed(seed, "dropout"))
    np.random.seed(derived_seed(seed, "numpy") % 2**32)
    random.seed(derived_seed(seed, "python"))
    try:
        yield
    finally:
        set_random_state(before)


def random_state() -> dict[str, Any]:
    """The states of torch's, numpy's and Python's generators, as tensors and numbers."""
    version, words, gauss = random.getstate()
    _, numpy_words, position, has_gauss, numpy_gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
        "numpy": [
            torch.tensor(np.asarray(numpy_words, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(numpy_gauss),
        ],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Goes on from what `random_state` gave; a `CheckpointWarning` where its GPUs are not there."""
    torch.set_rng_state(state["torch"])
    cuda: list[Tensor] = state["cuda"]
    if cuda and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)
    elif cuda:
        found = f"{torch.cuda.device_count()} GPUs in place of {len(cuda)}"
        warnings.warn(f"Random numbers may differ: {found}.", CheckpointWarning, stacklevel=2)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    words, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((_NUMPY, words.numpy().astype(np.uint32), position, has_gauss, gauss))
