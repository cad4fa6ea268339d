"""What a Frank-Wolfe step asks of a set: its linear minimisation oracle, and whether a point is inside."""

from __future__ import annotations

from math import inf
from numbers import Real
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.gradient import FactoredGradient


@runtime_checkable
class ConstraintSet(Protocol):
    """A convex, closed and bounded set of tensors of any one shape."""

    def lmo(self, grad: Tensor) -> Tensor:
        r"""The vertex :math:`\arg\min_{s \in C} \langle \text{grad}, s \rangle`, in the shape and dtype of `grad`.

        Args:
            grad: [*shape], dense or factored; read and never written to. Of several minimisers one is given.

        Returns:
            A tensor that `Tensor.lerp_` takes as its end: dense, or factored where the vertex has rank one.
        """

    def excess(self, point: Tensor) -> float:
        """How far outside: 0 inside, else the amount by which the worst inequality is broken, relative to the size.

        Args:
            point: [*shape].
        """

    def enter(self, point: Tensor) -> Tensor:
        """A point inside: `point` itself where it is, else one drawn back towards the middle.

        Args:
            point: [*shape]; not written to.
        """


def gap(grad: Tensor, point: Tensor, within: ConstraintSet) -> Tensor:
    r"""The Frank-Wolfe gap, [], zero exactly where no feasible direction goes down.

    .. math:: g(x) = \max_{s \in C} \langle \nabla f(x), x - s \rangle

    It bounds f(x) - min f from above where f is convex, and measures stationarity where it is not. With an estimate
    in place of the gradient it is too large in the mean, by what the noise can reach.

    Args:
        grad: [*shape], the gradient at `point`.
        point: [*shape], inside.
        within: the set.
    """
    with torch.no_grad():
        return (dense(grad) * (point - dense(within.lmo(grad)))).sum()


def dense(grad: Tensor) -> Tensor:
    """The entries, written out where they are kept in factors."""
    return grad.densify() if isinstance(grad, FactoredGradient) else grad


def vertex(like: Tensor, index: Tensor, value: Tensor | float) -> Tensor:
    """The tensor that is `value` at the flat `index` and zero elsewhere, as a product of two unit vectors.

    Args:
        like: shape, dtype and device.
        index: [], into the flattened tensor.
        value: [] or a number.
    """
    if like.dim() == 0:
        return torch.full_like(like, float(value))
    width = like[0].numel() if like.shape[0] else 1
    left, right = like.new_zeros(like.shape[0], 1), like.new_zeros(width, 1)
    left[index // width], right[index % width] = 1, 1
    weights = torch.as_tensor(value, device=like.device).reshape(1).to(torch.promote_types(like.dtype, torch.float32))
    return FactoredGradient(left, right, weights, like.shape)


def positive(size: float, what: str) -> None:
    """Refuses a size that is not positive and finite.

    Raises:
        InputError: with what it is the size of.
    """
    if isinstance(size, bool) or not isinstance(size, Real) or not 0 < size < inf:
        raise InputError(f"{what} needs a finite radius > 0", repr(size), "give one, e.g. 1.0")
