"""CIFAR-10: 32x32 pixels, three colours, ten kinds of things; as JPEGs, as 4,000 lossless images, or as published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Generator, nn

from forwardgrad.train.strict import PositiveInt
from forwardgrad.train.tasks.classification import Classification
from forwardgrad.train.tasks.convnet import convnet
from forwardgrad.train.tasks.pictures import PACKAGE, Pictures, read_archive, read_jpegs
from forwardgrad.train.tasks.sources import Files, Source, Together
from forwardgrad.train.tasks.task import Batch, Splits

_LICENCE = "none stated by the authors; used for research, cite"
JPEG = Files("cifar10", ("train_jpeg_00000-19999.parquet", "test_jpeg.parquet"), _LICENCE)
LOSSLESS = Files("cifar10", ("train_lossless_0000-3999.npz",), _LICENCE)
ORIGINAL = Files("cifar10", ("train_original.npz", "test_original.npz"), _LICENCE)
# Least validation loss after 200 forward passes on the lossless images, seed 100, over 0.1, 0.3 (backprop), 10, 30, 100
# (forward gradient, K = 1), 30, 100 (SPSA), 0.01, 0.03 (control variate, K = 16). A short search, in which forward-only
# methods hardly left chance: search again for long runs, and for the other copies.
LEARNING_RATES = {"backprop": 0.3, "checkpointed": 0.3, "spsa": 100.0, "forward": 100.0, "control": 0.03}
_SPLIT_SEED = 0  # the split belongs to the task, not to the seed of a run


class Cifar10(Classification):
    """What is in the picture?

    Args:
        images: "jpeg" (20,000 lossy images, a tenth to select on, and the 10,000 test images as JPEGs), "lossless" (the
            first 4,000 training images, 500 of them to select on and 500 to report on) or "original" (all of CIFAR-10,
            a tenth of its training images to select on). Accuracies of the first two are for relative comparisons only.
        channels: of each convolution.
        batch_size: images per batch.

    References:
        | Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009)
    """

    epochs: ClassVar[float] = 10
    learning_rates: ClassVar[Mapping[str, float]] = LEARNING_RATES
    source: ClassVar[Source] = Together(JPEG, PACKAGE)
    remark: ClassVar[str] = "JPEG copy: relative only."
    name: Literal["cifar10"] = "cifar10"
    images: Literal["jpeg", "lossless", "original"] = "jpeg"
    channels: tuple[PositiveInt, ...] = (16, 32, 64)
    batch_size: PositiveInt = 64

    def load(self) -> Splits:
        """Images [N, 3, 32, 32], standardised by colour, and labels.

        Raises:
            DataError: a file is missing or foreign; where another copy is there, the error names it.
            MissingExtraError: the JPEGs need a package.
        """
        if self.images == "lossless":
            pictures = read_archive(LOSSLESS.find(self.name) / LOSSLESS.names[0])
            return _standardised(*_divided(pictures, len(pictures.labels) // 8, len(pictures.labels) // 8))
        if self.images == "original":
            folder = ORIGINAL.find(self.name)
            train, test = (read_archive(folder / name) for name in ORIGINAL.names)
        else:
            folder = JPEG.find(self.name, cure=_another())
            train, test = (read_jpegs(folder / name, self.name) for name in JPEG.names)
        return _standardised(*_divided(train, len(train.labels) // 10), *_divided(test))

    def build(self, generator: Generator) -> nn.Module:
        """A small convolutional net with group normalisation."""
        return convnet(3, self.channels, 10, generator)


def _divided(pictures: Pictures, *held: int) -> list[Batch]:
    """Pictures and labels in parts: what is left, then `held` of them each."""
    x = torch.from_numpy(pictures.pixels).permute(0, 3, 1, 2).float() / 255
    y = torch.from_numpy(pictures.labels).long()
    if not held:
        return [(x, y)]
    order = torch.randperm(len(y), generator=Generator().manual_seed(_SPLIT_SEED))
    return [(x[index], y[index]) for index in order.split((len(y) - sum(held), *held))]


def _standardised(*parts: Batch) -> Splits:
    deviation, mean = torch.std_mean(parts[0][0], dim=(0, 2, 3), keepdim=True)  # of the training part only
    return Splits(*(((x - mean) / deviation, y) for x, y in parts))


def _another() -> str:
    """The cure where another copy is there; empty where none is."""
    there = [name for name, files in (("lossless", LOSSLESS), ("original", ORIGINAL)) if files.look().present]
    return f"set task.images={there[0]}: that copy is there" if there else ""
