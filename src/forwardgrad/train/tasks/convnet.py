"""A small convolutional net for pictures and spectrograms: conv, group norm, ReLU, pool, and again.

Group normalisation, because it has no running statistics: evaluation and training compute the same function.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Generator, nn
from torch.nn.utils import skip_init

_PER_GROUP = 8  # channels normalised together, where their number allows


def convnet(inputs: int, channels: Sequence[int], classes: int, generator: Generator, rows: int = 1) -> nn.Sequential:
    """One block per entry of `channels`, each halving the picture; then means over places and a linear layer.

    Args:
        inputs: channels of the picture.
        channels: of each block.
        classes: outputs.
        generator: source of the weights, He-normal; biases begin at zero.
        rows: bands of rows that are averaged apart. One for photographs, where it matters little how high a thing
            stands; more for spectrograms, where height is pitch.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise((inputs, *channels)):
        # skip_init: torch's own initialisation would draw from its default generator. No bias: the norm has one.
        conv = skip_init(nn.Conv2d, fan_in, fan_out, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
        groups = fan_out // _PER_GROUP if fan_out % _PER_GROUP == 0 else 1
        layers += [conv, nn.GroupNorm(groups, fan_out), nn.ReLU(), nn.MaxPool2d(2)]
    linear = skip_init(nn.Linear, rows * (inputs, *channels)[-1], classes)
    nn.init.kaiming_uniform_(linear.weight, nonlinearity="linear", generator=generator)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((rows, 1)), nn.Flatten(), linear)
