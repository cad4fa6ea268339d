"""Scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, always there, no download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Generator

from forwardgrad.train.strict import PositiveInt
from forwardgrad.train.tasks.classification import Perceptron
from forwardgrad.train.tasks.sources import Package, Source
from forwardgrad.train.tasks.task import Splits

# The same search for every method: one grid, 0.01 to 300 by factors of about 3, and two values around its best, 6,000
# forward passes, seeds 100 and 101 (not the demo's); mean accuracy on the validation part decides. The test part was
# not looked at. Backprop and its checkpointed forms have one gradient, hence one search.
# The control variate had a few trials more: its scale was chosen between "memory" and "unbiased" on validation too.
LEARNING_RATES = {"backprop": 0.3, "checkpointed": 0.3, "spsa": 15.0, "forward": 20.0, "control": 0.03}
_NUM_VALIDATION = _NUM_TEST = 300
_SPLIT_SEED = 0  # the split belongs to the task, not to the seed of a run
SOURCE = Package("scikit-learn", "train", "BSD-3-Clause; data: UCI, CC BY 4.0 (Alpaydin, Kaynak)")


class Digits(Perceptron):
    """Which digit is it? 1,197 images to train on, 300 to select on, 300 to report on."""

    features: ClassVar[int] = 64
    epochs: ClassVar[float] = 100
    learning_rates: ClassVar[Mapping[str, float]] = LEARNING_RATES
    source: ClassVar[Source] = SOURCE
    remark: ClassVar[str] = ""
    name: Literal["digits"] = "digits"
    hidden: tuple[PositiveInt, ...] = (64,)
    batch_size: PositiveInt = 64

    def load(self) -> Splits:
        """Images on [-1, 1] and their labels in three parts; MissingExtraError without scikit-learn."""
        try:
            from sklearn.datasets import load_digits  # inside: other tasks need no scikit-learn
        except ImportError as error:
            raise SOURCE.missing(self.name) from error
        pixels, labels = load_digits(return_X_y=True)
        x = torch.as_tensor(pixels, dtype=torch.float32) / 8 - 1  # pixels are 0 to 16
        y = torch.as_tensor(labels, dtype=torch.long)
        order = torch.randperm(len(y), generator=Generator().manual_seed(_SPLIT_SEED))
        sizes = (len(y) - _NUM_VALIDATION - _NUM_TEST, _NUM_VALIDATION, _NUM_TEST)
        return Splits(*((x[index], y[index]) for index in order.split(sizes)))
