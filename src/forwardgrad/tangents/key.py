"""Where randomness comes from: a `Key` names a draw, and replays it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator

_SEED_BITS = 63


class Key(NamedTuple):
    """Names one draw of tangents: the same key gives the same tangents on every device and version.

    Args:
        seed: 64-bit integer, the stream.
        step: 64-bit integer, the place in the stream (one per micro-batch).
    """

    seed: int
    step: int = 0

    @classmethod
    def draw(cls, generator: Generator | None = None) -> Key:
        """Draws a fresh key.

        Args:
            generator: a torch generator; None for torch's default one, so that `torch.manual_seed` governs it.
        """
        device = generator.device if generator is not None else "cpu"
        seed = torch.randint(2**_SEED_BITS - 1, (), generator=generator, device=device)
        return cls(int(seed), 0)
