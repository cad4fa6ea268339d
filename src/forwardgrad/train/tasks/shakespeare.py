"""Tiny Shakespeare: 1,115,394 characters of plays, and a small GPT that guesses the next one.

Shapes: B batch, T context, V vocabulary, E width.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from forwardgrad.errors import DataError
from forwardgrad.train.strict import PositiveInt, Strict
from forwardgrad.train.tasks.gpt import Gpt
from forwardgrad.train.tasks.sources import Files, Source
from forwardgrad.train.tasks.task import Batch, Score, Splits

SOURCE = Files(
    "lm/tinyshakespeare", ("input.txt.gz",), "text: public domain; collection: MIT (Karpathy)", instead=("input.txt",)
)
# Least validation loss, seed 100. Backprop: 600 forward passes over 0.3, 1, 3, of which the last two diverged. The
# others: 300 forward passes, K = 1 except for the control variate's 16; SPSA over 100 and 300, the forward gradient
# over 300 and 1000 after 1 to 100 at 600 passes, control over 0.01, 0.03, 0.1. A short search: search again for long
# runs.
LEARNING_RATES = {"backprop": 0.3, "checkpointed": 0.3, "spsa": 300.0, "forward": 300.0, "control": 0.03}
_VOCABULARY = 65
_CHUNK = 64  # windows scored at once: bounds the memory of an evaluation
_TRAIN, _VALIDATION = 0.9, 0.05  # shares of the text, in its order; the rest is for the report


class TinyShakespeare(Strict):
    """Which character is next? The first 90 % of the text to train on, 5 % to select on, the last 5 % to report on.

    The text is cut into windows of `context` characters that do not overlap; an epoch meets each of them once. Models
    rank by their loss, in nats per character.

    References:
        | The unreasonable effectiveness of recurrent neural networks (Karpathy, 2015)
        | https://karpathy.github.io/2015/05/21/rnn-effectiveness
    """

    epochs: ClassVar[float] = 1
    learning_rates: ClassVar[Mapping[str, float]] = LEARNING_RATES
    source: ClassVar[Source] = SOURCE
    remark: ClassVar[str] = "Loss in nats per character; divide by 0.693 for bits."
    name: Literal["tinyshakespeare"] = "tinyshakespeare"
    context: PositiveInt = 64
    heads: PositiveInt = 4
    head_width: PositiveInt = 16
    layers: PositiveInt = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    tied: bool = True
    batch_size: PositiveInt = 32

    def load(self) -> Splits:
        """Windows [N, T + 1] of character numbers in three parts; DataError where the text is missing or foreign."""
        text = _read(SOURCE.find(self.name))
        codes = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
        characters, tokens = codes.unique(return_inverse=True)  # sorted, hence the same numbers every time
        if len(characters) != _VOCABULARY:
            raise _foreign(SOURCE.find(self.name), f"{len(characters)} different characters instead of {_VOCABULARY}")
        sizes = [int(len(tokens) * share) for share in (_TRAIN, _VALIDATION)]
        parts = tokens.split([*sizes, len(tokens) - sum(sizes)])
        for part in parts:
            if len(part) <= self.context:
                found = f"a part of {len(part)} characters for a context of {self.context}"
                raise _foreign(SOURCE.find(self.name), found)
        # Copies, since the last target of a window is the first input of the next.
        return Splits(*((part.unfold(0, self.context + 1, self.context).contiguous(),) for part in parts))

    def build(self, generator: Generator) -> nn.Module:
        """A GPT over the 65 characters."""
        return Gpt(
            vocabulary=_VOCABULARY,
            context=self.context,
            width=self.heads * self.head_width,
            heads=self.heads,
            layers=self.layers,
            dropout=self.dropout,
            tied=self.tied,
            generator=generator,
        )

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Mean nats per character of one batch."""
        (windows,) = batch
        logits = model(windows[:, :-1])  # [B, T, V]
        return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    @torch.no_grad()
    def score(self, model: nn.Module, part: Batch) -> Score:
        """Mean nats per character of a whole part; train/eval mode is left as it was found."""
        (windows,) = part
        was_training = model.training
        model.eval()
        total = sum(float(self.loss(model, chunk)) * len(chunk) for chunk in windows.split(_CHUNK))
        model.train(was_training)
        return Score(total / len(windows), None)


def _read(folder: Path) -> bytes:
    packed = folder / "input.txt.gz"
    if not packed.is_file():
        return (folder / "input.txt").read_bytes()
    try:
        return gzip.decompress(packed.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _foreign(packed, f"a damaged gzip file ({error})") from error


def _foreign(path: Path, found: str) -> DataError:
    return DataError("task `tinyshakespeare` needs the whole text", found, "fetch the file again", path=str(path))
