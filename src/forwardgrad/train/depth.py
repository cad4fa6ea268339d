"""Memory against depth: what a step must hold as the net gets deeper, by the methods of a comparison.

The net is a perceptron of residual blocks, so that checkpointing has blocks to work with; weights and batch, alike for
all methods, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from forwardgrad.measurement import measure
from forwardgrad.tangents.key import Key
from forwardgrad.train.comparison import Contender
from forwardgrad.train.config import RunConfig
from forwardgrad.train.descent import Descent
from forwardgrad.train.record import Deeper, Record
from forwardgrad.train.tasks.classification import cross_entropy
from forwardgrad.train.threads import threads

DEPTHS = (1, 2, 4, 8, 16, 32)
_WIDTH, _BATCH, _CLASSES = 64, 256, 10


class Residual(nn.Module):
    """x + W2 relu(W1 x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, of the shape of `x`."""
        return x + self.inside(x)


def add_depths(record: Record, contenders: Sequence[Contender]) -> None:
    """Fills in `deeper` for every entry of a record."""
    for entry, contender in zip(record.entries, contenders, strict=True):
        with threads(contender.config.threads):
            entry.deeper = memory_by_depth(contender.config)


def memory_by_depth(config: RunConfig, depths: Sequence[int] = DEPTHS) -> list[Deeper]:
    """Peak and tape bytes of one step for each number of blocks.

    Args:
        config: names the method.
        depths: numbers of residual blocks.
    """
    generator = Generator().manual_seed(0)
    x = torch.randn(_BATCH, _WIDTH, generator=generator)
    y = torch.randint(_CLASSES, (_BATCH,), generator=generator)
    found = []
    with torch.random.fork_rng(devices=[]):  # the weights decide nothing here, but are the same for all methods
        torch.manual_seed(0)
        for depth in depths:
            blocks = [Residual(_WIDTH) for _ in range(depth)]
            model = nn.Sequential(*blocks, nn.Linear(_WIDTH, _CLASSES))
            sink = Descent(model, config.learning_rate, config.momentum, config.method.fused).sink
            cost = measure(config.method.build(model), model, cross_entropy, x, y, into=sink, key=Key(0), repeats=1)
            found.append(Deeper(depth, cost.peak_bytes, cost.tape_bytes))
    return found
