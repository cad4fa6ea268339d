"""CIFAR-10, the first 4,000 training images without loss: 32x32 pixels, three colours, ten kinds of things."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Generator, nn

from forwardgrad.errors import DataError
from forwardgrad.train.strict import PositiveInt
from forwardgrad.train.tasks.classification import Classification
from forwardgrad.train.tasks.convnet import convnet
from forwardgrad.train.tasks.sources import Files, Source
from forwardgrad.train.tasks.task import Splits

SOURCE = Files("cifar10", ("train_lossless_0000-3999.npz",), "none stated by the authors; used for research, cite")
# Least validation loss after 200 forward passes, seed 100, over 0.1, 0.3 (backprop), 10, 30, 100 (forward gradient, K
# = 1), 30, 100 (SPSA), 0.01, 0.03 (control variate, K = 16). A short search, in which forward-only methods hardly
# left chance: search again for long runs.
LEARNING_RATES = {"backprop": 0.3, "checkpointed": 0.3, "spsa": 100.0, "forward": 100.0, "control": 0.03}
_NUM_VALIDATION = _NUM_TEST = 500
_SPLIT_SEED = 0  # the split belongs to the task, not to the seed of a run


class Cifar10(Classification):
    """What is in the picture? 3,000 images to train on, 500 to select on, 500 to report on.

    Relative comparisons only: a tenth of the training images, and none of the test images, so accuracies here are not
    CIFAR-10 accuracies.

    References:
        | Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009)
    """

    epochs: ClassVar[float] = 10
    learning_rates: ClassVar[Mapping[str, float]] = LEARNING_RATES
    source: ClassVar[Source] = SOURCE
    remark: ClassVar[str] = "Relative comparisons only: 4,000 of the 60,000 images, none of them from the test set."
    name: Literal["cifar10"] = "cifar10"
    channels: tuple[PositiveInt, ...] = (16, 32, 64)
    batch_size: PositiveInt = 64

    def load(self) -> Splits:
        """Images [N, 3, 32, 32], standardised by colour, and labels; DataError where the file is missing or foreign."""
        pixels, labels = _read(SOURCE.find(self.name) / SOURCE.names[0])
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        y = torch.from_numpy(labels).long()
        order = torch.randperm(len(y), generator=Generator().manual_seed(_SPLIT_SEED))
        parts = order.split((len(y) - _NUM_VALIDATION - _NUM_TEST, _NUM_VALIDATION, _NUM_TEST))
        deviation, mean = torch.std_mean(x[parts[0]], dim=(0, 2, 3), keepdim=True)  # of the training part only
        x = (x - mean) / deviation
        return Splits(*((x[index], y[index]) for index in parts))

    def build(self, generator: Generator) -> nn.Module:
        """A small convolutional net with group normalisation."""
        return convnet(3, self.channels, 10, generator)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    needs, cure = "task `cifar10` needs images x [N, 32, 32, 3] and labels y", "fetch the file again"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(needs, f"a damaged file ({error})", cure, path=str(path)) from error
    pixels, labels = arrays.get("x"), arrays.get("y")
    if pixels is None or labels is None:
        raise DataError(needs, f"the arrays {', '.join(arrays)}", cure, path=str(path))
    fits = pixels.shape == (len(labels), 32, 32, 3) and pixels.dtype == np.uint8 and len(labels) > 2 * _NUM_TEST
    if not fits:
        found = f"{pixels.dtype} images of shape {pixels.shape} with labels of shape {labels.shape}"
        raise DataError(needs, found, cure, path=str(path))
    return pixels, labels
