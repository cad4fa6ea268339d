"""MNIST: 70,000 handwritten digits of 28x28 pixels, read from the original files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from forwardgrad.train.strict import PositiveInt
from forwardgrad.train.tasks.classification import Perceptron
from forwardgrad.train.tasks.idx import idx_files, read_images
from forwardgrad.train.tasks.sources import Source
from forwardgrad.train.tasks.task import Splits

# Found as those of the digits, with 3,000 forward passes. For the forward gradient 100 is best at K = 1 and 30 at
# K = 16; 60 serves both.
LEARNING_RATES = {"backprop": 0.3, "checkpointed": 0.3, "spsa": 100.0, "forward": 60.0, "control": 0.005}

SOURCE = idx_files("mnist", "CC BY-SA 3.0 (LeCun, Cortes)")


class Mnist(Perceptron):
    """Which digit is it? 50,000 images to train on, 10,000 to select on, the 10,000 test images to report on.

    References:
        | Gradient-based learning applied to document recognition (LeCun et al., 1998)
    """

    features: ClassVar[int] = 784
    epochs: ClassVar[float] = 5
    learning_rates: ClassVar[Mapping[str, float]] = LEARNING_RATES
    source: ClassVar[Source] = SOURCE
    remark: ClassVar[str] = ""
    name: Literal["mnist"] = "mnist"
    hidden: tuple[PositiveInt, ...] = (128,)
    batch_size: PositiveInt = 128

    def load(self) -> Splits:
        """Standardised images and their labels in three parts; DataError where a file is missing."""
        return read_images(self.name, SOURCE, mean=0.1307, std=0.3081, num_validation=10_000)
