"""Polytopes that are not balls of a norm."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from numbers import Real

import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.optim.constraint import dense, positive, vertex


@dataclass(frozen=True)
class Simplex:
    r"""No entry below zero and a sum of r, over the whole tensor: mixing weights.

    .. math:: s = r\, e_i, \qquad i = \arg\min_j g_j

    Args:
        total: r > 0.

    Raises:
        InputError: a total that is not positive.
    """

    total: float = 1.0

    def __post_init__(self) -> None:
        positive(self.total, "Simplex")

    def lmo(self, grad: Tensor) -> Tensor:
        g = dense(grad)
        return vertex(g, g.argmin(), self.total)

    def excess(self, point: Tensor) -> float:
        x = dense(point).double() / self.total
        return max(0.0, -float(x.min()), abs(float(x.sum()) - 1))

    def enter(self, point: Tensor) -> Tensor:
        if self.excess(point) == 0:
            return point
        x = point.clamp_min(0)
        total = x.sum()
        return x * (self.total / total) if total > 0 else torch.full_like(x, self.total / x.numel())


@dataclass(frozen=True)
class Box:
    r"""Every entry between two numbers.

    .. math:: s_i = \text{low where } g_i > 0, \text{ high where } g_i < 0, \text{ the middle where } g_i = 0

    Args:
        low: of every entry.
        high: of every entry.

    Raises:
        InputError: bounds that are not finite, or not low < high.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        bounds = self.low, self.high
        if not all(isinstance(b, Real) and isfinite(b) for b in bounds) or not self.low < self.high:
            raise InputError(
                "Box needs finite bounds low < high", f"{self.low!r} and {self.high!r}", "swap or mend them"
            )

    def lmo(self, grad: Tensor) -> Tensor:
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return middle - half * dense(grad).sign()

    def excess(self, point: Tensor) -> float:
        x = dense(point).double()
        return max(0.0, float(x.max()) - self.high, self.low - float(x.min())) / (self.high - self.low)

    def enter(self, point: Tensor) -> Tensor:
        return point.clamp(self.low, self.high)
