"""Functions that pick entries along a dimension (topk, sort, max, ...): tangents are picked by the same indices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forwardgrad.forward_ad.dual import Dual
from forwardgrad.forward_ad.registry import rule


def picked(input: Any, out: Any, dim: int, keepdim: bool = True) -> Any:
    """What a function returned for the primal, (values, indices), with the tangents of the values.

    Args:
        input: whose entries were picked.
        out: named tuple, for the primal.
        dim: along which they were.
        keepdim: whether `dim` is still there in `out`.
    """
    y, index = out
    at = index if keepdim else index.unsqueeze(dim)
    dy = input.dense().gather(dim % input.ndim + 1, at.expand(input.diary.num_tangents, *at.shape))
    return type(out)((Dual(y, dy.view(-1, *y.shape), input.reach, input.diary), index))


@rule(torch.topk, Tensor.topk)
def topk(input: Any, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    if not input.ndim:
        return NotImplemented
    return picked(input, torch.topk(input.primal, k, dim, largest, sorted), dim)


@rule(torch.sort, Tensor.sort)
def sort(input: Any, dim: int = -1, descending: bool = False, *, stable: bool | None = None) -> Any:
    if not input.ndim or not isinstance(dim, int) or isinstance(dim, bool):
        return NotImplemented
    return picked(input, torch.sort(input.primal, dim=dim, descending=descending, stable=stable), dim)


@rule(torch.kthvalue, Tensor.kthvalue)
def kthvalue(input: Any, k: Any, dim: int = -1, keepdim: bool = False) -> Any:
    if not input.ndim:
        return NotImplemented
    return picked(input, torch.kthvalue(input.primal, k, dim, keepdim), dim, keepdim)


def along(name: str) -> None:
    """Registers a function of (input, dim, keepdim), which has other forms for the fallback."""
    function = getattr(torch, name)

    @rule(function, getattr(Tensor, name))
    def pushed(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if not isinstance(input, Dual) or not isinstance(dim, int) or not input.ndim:
            return NotImplemented
        return picked(input, function(input.primal, dim, keepdim), dim, keepdim)


for _name in ("max", "min", "median", "nanmedian", "mode"):
    along(_name)
