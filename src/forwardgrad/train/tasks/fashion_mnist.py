"""Fashion-MNIST: 70,000 pictures of clothes, 28x28 pixels, in MNIST's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from forwardgrad.train.strict import PositiveInt
from forwardgrad.train.tasks.classification import Perceptron
from forwardgrad.train.tasks.idx import idx_files, read_images
from forwardgrad.train.tasks.sources import Source
from forwardgrad.train.tasks.task import Splits

# MNIST's, a net and data of the same size; not searched again.
LEARNING_RATES = {"backprop": 0.3, "checkpointed": 0.3, "spsa": 100.0, "forward": 60.0, "control": 0.005}

SOURCE = idx_files("fashion_mnist", "MIT (Zalando SE)")


class FashionMnist(Perceptron):
    """Which garment? 50,000 images to train on, 10,000 to select on, the 10,000 test images to report on.

    References:
        | Fashion-MNIST: a Novel Image Dataset for Benchmarking ML Algorithms (Xiao et al., 2017)
        | https://arxiv.org/abs/1708.07747
    """

    features: ClassVar[int] = 784
    epochs: ClassVar[float] = 5
    learning_rates: ClassVar[Mapping[str, float]] = LEARNING_RATES
    source: ClassVar[Source] = SOURCE
    remark: ClassVar[str] = ""
    name: Literal["fashion-mnist"] = "fashion-mnist"
    hidden: tuple[PositiveInt, ...] = (128,)
    batch_size: PositiveInt = 128

    def load(self) -> Splits:
        """Standardised images and their labels in three parts; DataError where a file is missing."""
        return read_images(self.name, SOURCE, mean=0.2860, std=0.3530, num_validation=10_000)
