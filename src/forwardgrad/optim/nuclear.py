"""Matrices of small rank: the ball of the nuclear norm, and the power iteration that finds its vertex."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from forwardgrad.errors import InputError
from forwardgrad.gradient import FactoredGradient
from forwardgrad.optim.constraint import dense, positive

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NuclearBall:
    r"""Sum of singular values at most r. A vertex has rank one, and stays a product of two vectors.

    .. math:: s = -r\, u_1 v_1^\top, \qquad G v_1 = \sigma_1 u_1

    The pair is found by power iteration on G^T G, two products with G a step; a factored gradient is multiplied
    through its factors. Tensors of more dimensions are taken as [shape[0], rest], others as one column.

    Args:
        radius: r > 0.
        iterations: the most that are made; where the first two singular values are close, the vertex is then a
            mixture of both, and almost as good.
        tolerance: relative growth of the singular value at which it stops.

    Raises:
        InputError: a radius that is not positive, fewer than one iteration, a tensor without dimensions.
    """

    radius: float = 1.0
    iterations: int = 100
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        positive(self.radius, "NuclearBall")
        if self.iterations < 1:
            raise InputError("NuclearBall needs at least one iteration", str(self.iterations), "use 20 or more")

    def lmo(self, grad: Tensor) -> Tensor:
        if grad.dim() == 0:
            raise InputError("NuclearBall needs a matrix", "a tensor without dimensions", "use Box for a single number")
        u, v = self._leading(grad)
        weights = torch.full((1,), -self.radius, device=grad.device)
        return FactoredGradient(u.to(grad.dtype)[:, None], v.to(grad.dtype)[:, None], weights, grad.shape)

    def _leading(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """u_1 [m] and v_1 [n]; of a zero matrix, zeros."""
        forward, backward, v = _products(grad)
        sigma = v.new_zeros((), dtype=torch.float64)
        for _ in range(self.iterations):
            u, last = _unit(forward(v)), sigma
            v = backward(u)
            sigma, v = torch.linalg.vector_norm(v, dtype=torch.float64), _unit(v)
            if bool(sigma <= last * (1 + self.tolerance)):
                break
        return u, v

    def excess(self, point: Tensor) -> float:
        matrix = point.reshape(point.shape[0], -1) if point.dim() else point.reshape(1, 1)
        return max(0.0, float(torch.linalg.matrix_norm(matrix.double(), "nuc")) / self.radius - 1)

    def enter(self, point: Tensor) -> Tensor:
        excess = self.excess(point)
        return point / (1 + excess) if excess > 0 else point


def _products(grad: Tensor) -> tuple[Product, Product, Tensor]:
    """v -> G v, u -> G^T u, and a start [n]; in float32 or wider."""
    dtype = torch.promote_types(grad.dtype, torch.float32)
    if isinstance(grad, FactoredGradient) and grad.factors is not None:
        left, right, w = grad.left.to(dtype), grad.right.to(dtype), grad.weights.to(dtype)
        forward, backward = (lambda v: left @ (w * (right.T @ v))), (lambda u: right @ (w * (left.T @ u)))
        n = len(right)
    else:
        G = dense(grad).reshape(grad.shape[0], -1).to(dtype)
        forward, backward = (lambda v: G @ v), (lambda u: G.T @ u)
        n = G.shape[1]
    # Drawn with a seed of its own: nothing of the gradient can be orthogonal to it by construction, and it replays.
    start = torch.randn(n, generator=Generator().manual_seed(0), dtype=torch.float64)
    return forward, backward, _unit(start.to(grad.device, dtype))


def _unit(x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, dtype=torch.float64)  # squares may leave the dtype
    return x * torch.where(norm > 0, 1 / norm, 0)
