"""Free Spoken Digit Dataset: 3,000 recordings of ten digits, six speakers, fifty takes each, 8 kHz."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Generator, nn

from forwardgrad.train.strict import PositiveInt
from forwardgrad.train.tasks import recordings
from forwardgrad.train.tasks.classification import Classification
from forwardgrad.train.tasks.convnet import convnet
from forwardgrad.train.tasks.mel import HOP, log_mel
from forwardgrad.train.tasks.sources import Files, Source
from forwardgrad.train.tasks.task import Splits

SOURCE = Files(
    "audio/fsdd", ("fsdd_int16.npz",), "CC BY-SA 4.0 (Jackson et al., FSDD)", instead=(recordings.WAV_FOLDER,)
)
# Least validation loss after 200 forward passes, seed 100, over 0.1, 0.3, 1 (backprop), 10, 30, 100 (forward
# gradient, K = 1), 30, 100 (SPSA), 0.01, 0.03, 0.1 (control variate, K = 16). A short search, in which forward-only
# methods hardly left chance: search again for long runs.
LEARNING_RATES = {"backprop": 0.1, "checkpointed": 0.1, "spsa": 30.0, "forward": 100.0, "control": 0.03}
_TEST_TAKES, _VALIDATION_TAKES = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)  # 0 to 4 are the authors' test part
_FRAMES = 48  # 0.75 s: longer than 95 % of the recordings; the others lose their ends


class SpokenDigits(Classification):
    """Which digit is spoken? Takes 10 to 49 to train on, 5 to 9 to select on, 0 to 4 to report on.

    Every speaker is in every part, so this says nothing about voices never heard.

    References:
        | Free Spoken Digit Dataset (Jackson et al., 2018)
        | https://doi.org/10.5281/zenodo.1342401
    """

    epochs: ClassVar[float] = 10
    learning_rates: ClassVar[Mapping[str, float]] = LEARNING_RATES
    source: ClassVar[Source] = SOURCE
    remark: ClassVar[str] = "Speakers are the same in all parts."
    name: Literal["fsdd"] = "fsdd"
    channels: tuple[PositiveInt, ...] = (16, 32, 32)
    batch_size: PositiveInt = 32

    def load(self) -> Splits:
        """Standardised log-mel spectrograms [N, 1, 32, 48] and labels; DataError where files are missing or foreign."""
        clips = recordings.read(SOURCE.find(self.name))
        x = log_mel(clips.padded((_FRAMES - 1) * HOP), recordings.RATE)
        test, validation = (torch.isin(clips.take, torch.tensor(takes)) for takes in (_TEST_TAKES, _VALIDATION_TAKES))
        train = ~(test | validation)
        if not (test.any() and validation.any() and train.any()):
            raise recordings.foreign(SOURCE.find(self.name), "a part without recordings")
        x = (x - x[train].mean()) / x[train].std()
        return Splits(*((x[part].unsqueeze(1), clips.label[part]) for part in (train, validation, test)))

    def build(self, generator: Generator) -> nn.Module:
        """A small convolutional net with group normalisation, which keeps four bands of pitch apart."""
        return convnet(1, self.channels, 10, generator, rows=4)
