"""What classification tasks share: a multilayer perceptron, its loss and its score.

A task adds its name, its data and its settings to `Perceptron`, or also its net to `Classification`.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from forwardgrad.train.strict import PositiveInt, Strict
from forwardgrad.train.tasks.task import Batch, Score

_CHUNK = 4096  # samples scored at once: bounds the memory of an evaluation
_CLASSES = 10


class Classification(Strict):
    """The loss and the score of every classification task."""

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Mean cross-entropy of one batch."""
        return cross_entropy(model, *batch)

    def score(self, model: nn.Module, part: Batch) -> Score:
        """Mean cross-entropy and accuracy on a whole part."""
        return score(model, part)


class Perceptron(Classification):
    """Classification by a perceptron from `features` over the hidden units to ten classes.

    `start` says how its weights are drawn: "he" is He-uniform with zero biases, "torch" is what `nn.Linear` does.
    """

    features: ClassVar[int]
    hidden: tuple[PositiveInt, ...]
    start: Literal["he", "torch"] = "he"
    batch_size: PositiveInt

    def build(self, generator: Generator) -> nn.Module:
        """The perceptron, fresh."""
        return mlp((self.features, *self.hidden, _CLASSES), generator, he=self.start == "he")


def mlp(sizes: Sequence[int], generator: Generator, *, he: bool = True) -> nn.Sequential:
    """A ReLU perceptron.

    Args:
        sizes: features of the input, of each hidden layer and of the output.
        generator: source of the weights.
        he: He-uniform weights and zero biases; else both uniform on +-1/sqrt(fan_in), as `nn.Linear` draws them.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = skip_init(nn.Linear, fan_in, fan_out)  # its own init would draw from torch's default generator
        if he:
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(linear.bias)
        else:
            bound = fan_in**-0.5
            for parameter in linear.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of `model(x)` [B, C] against labels `y` [B]."""
    return F.cross_entropy(model(x), y)


@torch.no_grad()
def score(model: nn.Module, part: Batch, chunk: int = _CHUNK) -> Score:
    """Mean cross-entropy and accuracy over a whole part; train/eval mode is left as it was found.

    Args:
        model: gives logits [B, C].
        part: inputs and labels.
        chunk: samples scored at once.
    """
    x, y = part
    was_training = model.training
    model.eval()
    loss, right = 0.0, 0
    for inputs, labels in zip(x.split(chunk), y.split(chunk), strict=True):
        logits = model(inputs)  # [B, C]
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    model.train(was_training)
    return Score(loss / len(y), right / len(y))
