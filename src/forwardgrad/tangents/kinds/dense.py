"""Tangents written out entry by entry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Columns turned into float64 at a time, so that a Gram matrix never doubles the tangents' memory.
_GRAM_COLUMNS = 2**16


@dataclass(frozen=True, eq=False)
class Dense:
    """K tangents stored in full: v_k = data[k].

    Args:
        data: [K, *shape], floating.
    """

    data: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.data.shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        return self.data.device

    @property
    def num_tangents(self) -> int:
        return self.data.shape[0]

    def dense(self) -> Tensor:
        return self.data

    def chunk(self, start: int, stop: int) -> Dense:
        return Dense(self.data[start:stop])

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Dense:
        return Dense(self.data.to(dtype=dtype or self.dtype, device=device or self.device))

    def gram(self) -> Tensor:
        rows = self.data.reshape(self.num_tangents, -1)
        total = rows.new_zeros(self.num_tangents, self.num_tangents, dtype=torch.float64)
        for block in rows.split(_GRAM_COLUMNS, dim=1):
            wide = block.double()
            total.addmm_(wide, wide.T)
        return total

    def weighted_sum(self, weights: Tensor) -> Tensor:
        data = self.data
        weights = weights.to(data.dtype)
        if data.dim() == 2:
            return weights @ data
        return (weights @ data.reshape(len(data), -1)).view(data.shape[1:])

    def dot(self, other: Tensor) -> Tensor:
        wide = torch.promote_types(self.dtype, torch.float32)
        return self.data.reshape(self.num_tangents, -1).to(wide) @ other.reshape(-1).to(wide)

    def mask(self, index: int | Tensor) -> Dense:
        data = self.data.clone()
        data[:, index] = 0
        return Dense(data)

    def transpose(self) -> Dense:
        return Dense(self.data.transpose(1, 2))

    def narrow(self, dim: int, start: int, length: int) -> Dense:
        return Dense(self.data.narrow(dim % len(self.shape) + 1, start, length))
