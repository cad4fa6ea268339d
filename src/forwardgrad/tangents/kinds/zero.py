"""Tangents that are zero everywhere and cost nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Zero:
    """K zero tangents, v_k = 0: frozen parameters and those a sampler leaves out.

    Args:
        shape: the parameter's shape.
        num_tangents: K.
        dtype: the parameter's dtype.
        device: the parameter's device.
    """

    shape: torch.Size
    num_tangents: int
    dtype: torch.dtype
    device: torch.device

    def dense(self) -> Tensor:
        return torch.zeros(self.num_tangents, *self.shape, dtype=self.dtype, device=self.device)

    def chunk(self, start: int, stop: int) -> Zero:
        return replace(self, num_tangents=len(range(*slice(start, stop).indices(self.num_tangents))))

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Zero:
        return replace(self, dtype=dtype or self.dtype, device=torch.device(device or self.device))

    def gram(self) -> Tensor:
        return torch.zeros(self.num_tangents, self.num_tangents, dtype=torch.float64, device=self.device)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)

    def dot(self, other: Tensor) -> Tensor:
        return torch.zeros(self.num_tangents, dtype=torch.promote_types(self.dtype, torch.float32), device=self.device)

    def mask(self, index: int | Tensor) -> Zero:
        return self

    def transpose(self) -> Zero:
        rows, columns = self.shape
        return replace(self, shape=torch.Size((columns, rows)))

    def narrow(self, dim: int, start: int, length: int) -> Zero:
        dim %= len(self.shape)
        return replace(self, shape=torch.Size((*self.shape[:dim], length, *self.shape[dim + 1 :])))
