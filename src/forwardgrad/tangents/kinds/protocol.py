"""What every kind of tangent can do, so that nobody has to ask which kind it is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Kind(Protocol):
    """K tangents v_1 .. v_K of one parameter, stacked, in a form of their own.

    Every operation is the dense one, carried out on the form: `kind.f(x).dense()` equals `f(kind.dense(),
    x)`.
    """

    @property
    def shape(self) -> torch.Size:
        """The parameter's shape, without the leading K."""

    @property
    def dtype(self) -> torch.dtype:
        """The parameter's dtype."""

    @property
    def device(self) -> torch.device:
        """The parameter's device."""

    @property
    def num_tangents(self) -> int:
        """K."""

    def dense(self) -> Tensor:
        """The tangents written out, [K, *shape]."""

    def chunk(self, start: int, stop: int) -> Kind:
        """Tangents start .. stop-1 alone (a view)."""

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Kind:
        """The same tangents in another dtype or on another device; None keeps what is there."""

    def gram(self) -> Tensor:
        """<v_j, v_k>, [K, K] in float64."""

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """sum_k weights[k] v_k, of the parameter's shape and dtype: factored for rank-one tangents, else
        dense.

        Args:
            weights: [K], any floating dtype.
        """

    def dot(self, other: Tensor) -> Tensor:
        """<v_k, other> for every k, [K] in float32 or wider.

        Args:
            other: of the parameter's shape, dense or a `FactoredGradient`.
        """

    def mask(self, index: int | Tensor) -> Kind:
        """The same tangents with row(s) `index` of the parameter's first dimension set to zero (padding
        rows).

        Args:
            index: one row, or a long tensor of rows.
        """

    def transpose(self) -> Kind:
        """Tangents of the transposed parameter, for parameters of two dimensions."""

    def narrow(self, dim: int, start: int, length: int) -> Kind:
        """Tangents of `parameter.narrow(dim, start, length)`.

        Args:
            dim: dimension of the parameter (K not counted), negative from the end.
            start: first position kept, at least 0.
            length: number of positions kept.
        """
