"""Numbers q 2^-e: integers q in tensors, exponents e as Python integers beside them.

Scales are powers of two, so that going from one to another is a shift.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Where weights of so many bits lie. Accumulators, sums and losses are of 32 bits, and so is whatever is being computed.
STORAGE = {8: torch.int8, 16: torch.int16}


class Saturation:
    """How many numbers left the range of their type and were clamped, by place."""

    def __init__(self) -> None:
        self._counts: dict[str, Tensor] = {}
        self._seen: dict[str, int] = {}

    def add(self, place: str, clamped: Tensor, of: int) -> None:
        """Counts; nothing is read out of a tensor, so that a step need not wait.

        Args:
            place: where.
            clamped: [], how many were clamped.
            of: out of how many.
        """
        self._counts[place] = self._counts[place] + clamped if place in self._counts else clamped
        self._seen[place] = self._seen.get(place, 0) + of

    def counts(self) -> dict[str, int]:
        """Numbers clamped since the beginning, or the last `clear`, by place."""
        return {place: int(count) for place, count in self._counts.items()}

    def rates(self) -> dict[str, float]:
        """The same as fractions of all numbers that passed the place."""
        return {place: count / max(self._seen[place], 1) for place, count in self.counts().items()}

    def clear(self) -> None:
        """Begins anew."""
        self._counts.clear()
        self._seen.clear()


def shifted(x: Tensor, places: int) -> Tensor:
    r"""Integers times 2^places: :math:`\mathrm{round}(x\,2^{p})`, to nearest, ties to even, as `torch.round` does.

    Args:
        x: int32, any shape; to the left the caller leaves room for the product, to the right for half a unit more.
        places: to the left where positive, to the right where negative.
    """
    if places >= 0:
        return x << places
    n = -places
    if n > 31:
        return torch.zeros_like(x)
    return (x + ((1 << (n - 1)) - 1) + ((x >> n) & 1)) >> n


def saturated(x: Tensor, bits: int, saturation: Saturation, place: str, low: int | None = None) -> Tensor:
    """The nearest numbers of so many bits, still in 32; what was clamped is counted.

    Args:
        x: int32, any shape.
        bits: 1 to 32, sign included.
        saturation: counts.
        place: under this name.
        low: a lower bound in place of that of the type, for rectifiers; what it cuts is not counted.
    """
    bound = 1 << (bits - 1)
    y = x.clamp(-bound, bound - 1)
    if low is None:
        saturation.add(place, (y != x).sum(), x.numel())
    else:
        saturation.add(place, (x > bound - 1).sum(), x.numel())
        y = y.clamp(min=low)
    return y
