"""Tangents with one entry that is not zero."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Coordinate:
    """K coordinate directions v_k = value[k] e_{index[k]}.

    A tangent whose coordinate lies in another parameter has value 0 here, at any index.

    Args:
        index: [K] long, position in the flattened (row-major) parameter.
        value: [K], of dtype `dtype`.
        shape: the parameter's shape.
        dtype: the parameter's dtype.
    """

    index: Tensor
    value: Tensor
    shape: torch.Size
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        return self.index.device

    @property
    def num_tangents(self) -> int:
        return self.index.shape[0]

    def dense(self) -> Tensor:
        rows = self.value.new_zeros(self.num_tangents, prod(self.shape))
        if rows.numel():
            rows.scatter_(1, self.index.unsqueeze(1), self.value.unsqueeze(1))
        return rows.view(self.num_tangents, *self.shape)

    def chunk(self, start: int, stop: int) -> Coordinate:
        return Coordinate(self.index[start:stop], self.value[start:stop], self.shape, self.dtype)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Coordinate:
        dtype, device = dtype or self.dtype, device or self.device
        return Coordinate(self.index.to(device), self.value.to(dtype=dtype, device=device), self.shape, dtype)

    def gram(self) -> Tensor:
        value = self.value.double()
        return torch.outer(value, value) * (self.index.unsqueeze(0) == self.index.unsqueeze(1))

    def weighted_sum(self, weights: Tensor) -> Tensor:
        total = self.value.new_zeros(prod(self.shape))
        if total.numel():
            total.index_add_(0, self.index, self.value * weights.to(self.dtype))
        return total.view(self.shape)

    def dot(self, other: Tensor) -> Tensor:
        wide = torch.promote_types(self.dtype, torch.float32)
        if not other.numel():
            return self.value.to(wide)
        return other.reshape(-1)[self.index].to(wide) * self.value.to(wide)

    def mask(self, index: int | Tensor) -> Coordinate:
        rows = torch.as_tensor(index, device=self.device).reshape(-1) % self.shape[0]
        return self._kept(self.index, ~torch.isin(self._position(0), rows), self.shape)

    def transpose(self) -> Coordinate:
        rows, columns = self.shape
        index = self._position(1) * rows + self._position(0)
        return Coordinate(index, self.value, torch.Size((columns, rows)), self.dtype)

    def narrow(self, dim: int, start: int, length: int) -> Coordinate:
        dim %= len(self.shape)
        shape = torch.Size((*self.shape[:dim], length, *self.shape[dim + 1 :]))
        inner = prod(self.shape[dim + 1 :])
        outer, position = self.index // (inner * self.shape[dim]), self._position(dim) - start
        inside = (position >= 0) & (position < length)
        return self._kept((outer * length + position) * inner + self.index % inner, inside, shape)

    def _position(self, dim: int) -> Tensor:
        """Where along `dim` each coordinate lies, [K]."""
        return self.index // prod(self.shape[dim + 1 :]) % self.shape[dim]

    def _kept(self, index: Tensor, keep: Tensor, shape: torch.Size) -> Coordinate:
        """These coordinates, with value 0 at index 0 where `keep` is False."""
        return Coordinate(index * keep, self.value * keep, shape, self.dtype)
