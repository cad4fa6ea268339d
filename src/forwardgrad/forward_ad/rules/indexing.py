"""Picking entries: the index that picks from [*s], one dimension further on, picks from the tangents [K, *s]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forwardgrad.forward_ad.dual import Dual, primal
from forwardgrad.forward_ad.registry import rule
from forwardgrad.forward_ad.rules.views import part_of, up, view_of
from forwardgrad.tangents.kinds import RankOne


def shifted_index(index: Any) -> tuple | None:
    """The index that picks from [K, *s] what `index` picks from [*s]; None where K would not stay in front."""
    entries = tuple(index) if isinstance(index, tuple) else (index,)
    advanced = [i for i, e in enumerate(entries) if isinstance(e, (Tensor, list)) or hasattr(e, "__array__")]
    # An integer beside index tensors counts as one of them.
    if advanced:
        advanced = [i for i, e in enumerate(entries) if i in advanced or type(e) is int]
        if advanced[-1] - advanced[0] + 1 != len(advanced):
            return None
    if any(e is True or e is False for e in entries):
        return None
    return (slice(None), *entries)


@rule(Tensor.__getitem__)
def getitem(x: Any, index: Any) -> Any:
    if type(x) is not Dual:
        return x[primal_index(index)]
    index = primal_index(index)
    if isinstance(x.tangent, RankOne) and (rows := plain_slices(index)):
        part, y = x.tangent, x.primal[index]
        for dim, rows_of in enumerate(rows):
            start, stop, _ = rows_of.indices(x.primal.shape[dim])
            part = part.narrow(dim, start, max(stop - start, 0))
        return part_of(x, y, part)
    moved = shifted_index(index)
    y = x.primal[index]
    if moved is None:  # index tensors lie apart, so the result is a copy, or a view where they have no dimensions
        return view_of(x, y, torch.stack([dx[index] for dx in x.dense()]))
    return view_of(x, y, x.dense()[moved])


def plain_slices(index: Any) -> tuple[slice, ...]:
    """The slices of an index made of slices of step 1 only; nothing for any other index."""
    entries = index if isinstance(index, tuple) else (index,)
    return entries if all(type(e) is slice and e.step in (None, 1) for e in entries) else ()


def primal_index(index: Any) -> Any:
    """An index with the primals of any Duals in it."""
    return tuple(primal(i) for i in index) if isinstance(index, tuple) else primal(index)


@rule(torch.index_select, Tensor.index_select)
def index_select(input: Dual, dim: int, index: Tensor) -> Any:
    if not input.primal.ndim:
        return NotImplemented
    return input.primal.index_select(dim, index), input.dense().index_select(up(dim), index)


@rule(torch.gather, Tensor.gather)
def gather(input: Dual, dim: int, index: Tensor, **_: Any) -> Any:
    if not input.primal.ndim:
        return NotImplemented
    dx = input.dense()
    return input.primal.gather(dim, index), dx.gather(up(dim), index.expand(dx.shape[0], *index.shape))
