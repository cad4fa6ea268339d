"""Balls of entrywise norms. Written out, the oracle is minus the radius times the dual norm's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from numbers import Real

import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.optim.constraint import dense, positive, vertex


@dataclass(frozen=True)
class L1Ball:
    r"""Sum of absolute values at most r: the vertex has one entry, so that iterates are sparse.

    .. math:: s = -r\, \mathrm{sign}(g_i)\, e_i, \qquad i = \arg\max_j |g_j|

    Args:
        radius: r > 0.

    Raises:
        InputError: a radius that is not positive.
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        positive(self.radius, "L1Ball")

    def lmo(self, grad: Tensor) -> Tensor:
        g = dense(grad)
        i = g.abs().argmax()
        return vertex(g, i, -self.radius * g.reshape(-1)[i].sign())

    def excess(self, point: Tensor) -> float:
        return _excess(point, 1, self.radius)

    def enter(self, point: Tensor) -> Tensor:
        return _drawn_in(point, self.excess(point))


@dataclass(frozen=True)
class L2Ball:
    r"""Euclidean (Frobenius) norm at most r. A factored gradient gives a factored vertex, and no entry is made.

    .. math:: s = -r\, g / |g|_2

    Args:
        radius: r > 0.

    Raises:
        InputError: a radius that is not positive.
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        positive(self.radius, "L2Ball")

    def lmo(self, grad: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(grad, dtype=torch.float64)  # squares may leave the dtype
        return grad * torch.where(norm > 0, -self.radius / norm, 0)

    def excess(self, point: Tensor) -> float:
        return _excess(point, 2, self.radius)

    def enter(self, point: Tensor) -> Tensor:
        return _drawn_in(point, self.excess(point))


@dataclass(frozen=True)
class LinfBall:
    r"""Every absolute value at most r.

    .. math:: s = -r\, \mathrm{sign}(g)

    Args:
        radius: r > 0.

    Raises:
        InputError: a radius that is not positive.
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        positive(self.radius, "LinfBall")

    def lmo(self, grad: Tensor) -> Tensor:
        return dense(grad).sign().mul_(-self.radius)

    def excess(self, point: Tensor) -> float:
        return _excess(point, inf, self.radius)

    def enter(self, point: Tensor) -> Tensor:
        return _drawn_in(point, self.excess(point))


@dataclass(frozen=True)
class LpBall:
    r"""The p-norm at most r, for p strictly between 1 and infinity.

    .. math:: s = -r\, \mathrm{sign}(g)\, \frac{|g|^{q-1}}{\big|\,|g|^{q-1}\big|_p},
        \qquad \tfrac1p + \tfrac1q = 1

    Args:
        p: the exponent.
        radius: r > 0.

    Raises:
        InputError: a radius that is not positive, a p outside (1, inf).
    """

    p: float
    radius: float = 1.0

    def __post_init__(self) -> None:
        positive(self.radius, "LpBall")
        if isinstance(self.p, bool) or not isinstance(self.p, Real) or not 1 < self.p < inf:
            raise InputError("LpBall needs an exponent 1 < p < inf", repr(self.p), "use L1Ball or LinfBall at the ends")

    def lmo(self, grad: Tensor) -> Tensor:
        g = dense(grad)
        top = g.abs().max()
        # Against the largest entry, so that no power overflows; of a zero gradient, the zero vertex.
        power = torch.where(top > 0, (g.abs() / top) ** (1 / (self.p - 1)), 0)
        norm = torch.linalg.vector_norm(power, self.p)
        return g.sign() * power * torch.where(norm > 0, -self.radius / norm, 0)

    def excess(self, point: Tensor) -> float:
        return _excess(point, self.p, self.radius)

    def enter(self, point: Tensor) -> Tensor:
        return _drawn_in(point, self.excess(point))


def _excess(point: Tensor, p: float, radius: float) -> float:
    return max(0.0, float(torch.linalg.vector_norm(dense(point), p, dtype=torch.float64)) / radius - 1)


def _drawn_in(point: Tensor, excess: float) -> Tensor:
    """Towards zero, by what a norm is too large."""
    return point / (1 + excess) if excess > 0 else point
