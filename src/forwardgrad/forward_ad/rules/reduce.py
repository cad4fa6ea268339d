"""Reductions: linear ones are applied to the tangent, the others by their derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forwardgrad.forward_ad.dual import Dual
from forwardgrad.forward_ad.registry import rule


def axes(dim: Any, ndim: int) -> list[int]:
    """The tangent's dimensions for the primal's `dim` (None: all of them)."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return list(range(1, ndim + 1))
    return [d % ndim + 1 for d in ([dim] if isinstance(dim, int) else dim)]


@rule(torch.sum, Tensor.sum)
def sum(input: Dual, dim: Any = None, keepdim: bool = False, *more: Any, dtype: Any = None) -> Any:
    if more:
        return NotImplemented
    x, dx = input.primal, input.dense()
    y = x.sum(dim, keepdim, dtype=dtype)
    if x.ndim == 0:
        return y, dx.to(y.dtype, copy=True)
    return y, dx.sum(axes(dim, x.ndim), keepdim, dtype=dtype)


@rule(torch.mean, Tensor.mean)
def mean(input: Dual, dim: Any = None, keepdim: bool = False, *more: Any, dtype: Any = None) -> Any:
    if more:
        return NotImplemented
    x, dx = input.primal, input.dense()
    y = x.mean(dim, keepdim, dtype=dtype)
    if x.ndim == 0:
        return y, dx.to(y.dtype, copy=True)
    return y, dx.mean(axes(dim, x.ndim), keepdim, dtype=dtype)


@rule(torch.cumsum, Tensor.cumsum)
def cumsum(input: Dual, dim: int, **kwargs: Any) -> Any:
    if not input.primal.ndim:
        return NotImplemented
    return input.primal.cumsum(dim, **kwargs), input.dense().cumsum(dim + 1 if dim >= 0 else dim, **kwargs)


@rule(torch.logsumexp, Tensor.logsumexp)
def logsumexp(input: Dual, dim: Any, keepdim: bool = False) -> Any:
    if not input.primal.ndim:
        return NotImplemented
    x, dx = input.primal, input.dense()
    total = x.logsumexp(dim, keepdim=True)
    dy = (dx * (x - total).exp()).sum(axes(dim, x.ndim), keepdim)
    return total if keepdim else x.logsumexp(dim), dy
