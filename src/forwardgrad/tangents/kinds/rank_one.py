"""Outer products: tangents of a matrix at the price of two vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forwardgrad.gradient import FactoredGradient


@dataclass(frozen=True, eq=False)
class RankOne:
    """K outer products v_k = a_k (x) b_k, tangents of a parameter of shape (m, *rest), in K (m + prod(rest))
    numbers.

    Pushed through x W^T they cost two matrix-vector products per tangent in place of a matrix product.

    Args:
        a: [K, m], floating.
        b: [K, *rest], same dtype and device; rest has at least one dimension.
    """

    a: Tensor
    b: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.a.shape[1:] + self.b.shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        return self.a.dtype

    @property
    def device(self) -> torch.device:
        return self.a.device

    @property
    def num_tangents(self) -> int:
        return self.a.shape[0]

    def dense(self) -> Tensor:
        ones = (1,) * (self.b.dim() - 1)
        return self.a.reshape(*self.a.shape, *ones) * self.b.unsqueeze(1)

    def chunk(self, start: int, stop: int) -> RankOne:
        return RankOne(self.a[start:stop], self.b[start:stop])

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> RankOne:
        dtype, device = dtype or self.dtype, device or self.device
        return RankOne(self.a.to(device, dtype), self.b.to(device, dtype))

    def gram(self) -> Tensor:
        a, b = self.a.double(), self.b.flatten(1).double()
        return (a @ a.T) * (b @ b.T)

    def weighted_sum(self, weights: Tensor) -> FactoredGradient:
        return FactoredGradient(self.a.t(), self.b.flatten(1).t(), weights, self.shape)

    def dot(self, other: Tensor) -> Tensor:
        wide = torch.promote_types(self.dtype, torch.float32)
        b = self.b.flatten(1)
        if isinstance(other, FactoredGradient) and other.is_factored:
            left, right = self.a.to(wide) @ other.left.to(wide), b.to(wide) @ other.right.to(wide)
            return (left * right) @ other.weights.to(wide)
        rows = b @ other.reshape(self.a.shape[1], -1).to(self.dtype).T
        return (self.a.to(wide) * rows).sum(1)

    def mask(self, index: int | Tensor) -> RankOne:
        a = self.a.clone()
        a[:, index] = 0
        return RankOne(a, self.b)

    def transpose(self) -> RankOne:
        return RankOne(self.b, self.a)

    def narrow(self, dim: int, start: int, length: int) -> RankOne:
        dim %= len(self.shape)
        if dim == 0:
            return RankOne(self.a.narrow(1, start, length), self.b)
        return RankOne(self.a, self.b.narrow(dim, start, length))
