"""Shapes: what happens to a primal's dimensions happens to its tangent's, one place further on.

A view of a primal gets a view of its tangent, so that in-place writes are seen through both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from forwardgrad.forward_ad.dual import Dual, aligned, is_differentiable, primal, structure, zeros_for
from forwardgrad.forward_ad.pending import Pending
from forwardgrad.forward_ad.registry import rule
from forwardgrad.tangents.kinds import Kind, RankOne


def view_of(x: Dual, y: Tensor, dy: Tensor) -> Dual:
    """The Dual of y, a view of x or a copy of it, where dy should be the like of x's tangent.

    Where y is a view and dy is none, both are marked: a write through one would not be seen in the other.
    """
    if y is x.primal:  # as of a vector flattened
        return x
    if not y._is_view():  # a copy, as of a reshape that could not be a view, shares no tangent either
        return Dual(y, dy.clone() if dy._is_view() else dy, x.reach, x.diary)
    out = Dual(y, dy, x.reach, x.diary)
    if x.apart or not dy._is_view() or not isinstance(x.tangent, Tensor):
        x.apart = out.apart = True
    return out


def reshaped(x: Dual, y: Tensor) -> Dual:
    """The Dual of y, which is x in another shape."""
    held = x.tangent
    if isinstance(held, Pending) and y._is_view() and (part := held.viewed(y.shape)) is not None:
        out = Dual(y, part, x.reach, x.diary)
        out.apart = x.apart
        return out
    dx = x.dense()
    return view_of(x, y, dx.reshape(dx.shape[0], *y.shape))


def part_of(x: Dual, y: Tensor, part: Kind) -> Dual:
    """The Dual of a view y of x whose tangent stays structured, and so is none."""
    out = Dual(y, part, x.reach, x.diary)
    x.apart = out.apart = True
    return out


def sizes(args: tuple) -> tuple:
    """Sizes given one by one or as one sequence."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list, torch.Size)) else args


def up(dim: int) -> int:
    """A dimension of the primal as one of the tangent."""
    return dim + 1 if dim >= 0 else dim


@rule(Tensor.view, Tensor.reshape, torch.reshape)
def reshape(x: Dual, *shape: Any, **kwargs: Any) -> Any:
    if kwargs or (shape and isinstance(shape[0], torch.dtype)):
        return NotImplemented
    y = x.primal.reshape(sizes(shape))
    return reshaped(x, y)


@rule(Tensor.view_as, Tensor.reshape_as)
def view_as(x: Any, other: Tensor) -> Any:
    return reshape(x, other.shape) if type(x) is Dual else x.view(other.shape)


@rule(torch.flatten, Tensor.flatten)
def flatten(input: Dual, start_dim: int = 0, end_dim: int = -1) -> Any:
    y = input.primal.flatten(start_dim, end_dim)
    return reshaped(input, y)


@rule(torch.unflatten, Tensor.unflatten)
def unflatten(input: Dual, dim: int, sizes: Sequence[int]) -> Any:
    y = input.primal.unflatten(dim, sizes)
    return reshaped(input, y)


@rule(torch.permute, Tensor.permute)
def permute(input: Dual, *dims: Any) -> Any:
    order = sizes(dims)
    moved = [0] + [d % input.primal.ndim + 1 for d in order]
    return view_of(input, input.primal.permute(order), input.dense().permute(moved))


@rule(torch.transpose, Tensor.transpose, torch.swapaxes, Tensor.swapaxes, torch.swapdims, Tensor.swapdims)
def transpose(input: Dual, dim0: int, dim1: int) -> Any:
    x = input.primal
    if not x.ndim or (x.ndim == 2 and dim0 % 2 == dim1 % 2):
        return input
    if isinstance(input.tangent, RankOne) and x.ndim == 2:
        return part_of(input, x.transpose(dim0, dim1), input.tangent.transpose())
    return view_of(input, x.transpose(dim0, dim1), input.dense().transpose(up(dim0), up(dim1)))


@rule(torch.t, Tensor.t, Tensor.T.__get__)
def t(input: Dual) -> Any:
    n = input.primal.ndim
    if n < 2:
        return input
    return transpose(input, n - 2, n - 1) if n == 2 else NotImplemented


@rule(Tensor.mT.__get__)
def matrix_transpose(input: Dual) -> Any:
    return transpose(input, -2, -1)


@rule(torch.movedim, Tensor.movedim, torch.moveaxis, Tensor.moveaxis)
def movedim(input: Dual, source: Any, destination: Any) -> Any:
    n = input.primal.ndim
    source, destination = ([d] if isinstance(d, int) else list(d) for d in (source, destination))
    y = input.primal.movedim(source, destination)
    return view_of(input, y, input.dense().movedim([d % n + 1 for d in source], [d % n + 1 for d in destination]))


@rule(torch.unsqueeze, Tensor.unsqueeze)
def unsqueeze(input: Dual, dim: int) -> Any:
    return view_of(input, input.primal.unsqueeze(dim), input.dense().unsqueeze(up(dim)))


@rule(torch.squeeze, Tensor.squeeze)
def squeeze(input: Dual, dim: Any = None) -> Any:
    y = input.primal.squeeze() if dim is None else input.primal.squeeze(dim)
    return reshaped(input, y)


@rule(Tensor.expand, torch.broadcast_to, Tensor.broadcast_to)
def expand(input: Dual, *shape: Any, **kwargs: Any) -> Any:
    y = input.primal.expand(*shape, **kwargs)
    dx = aligned(input.dense(), y.ndim)
    return view_of(input, y, dx.expand(dx.shape[0], *y.shape))


@rule(Tensor.expand_as)
def expand_as(input: Any, other: Tensor) -> Any:
    return expand(input, other.shape) if type(input) is Dual else input.expand(other.shape)


@rule(torch.broadcast_tensors, torch._C._VariableFunctions.broadcast_tensors)
def broadcast_tensors(*tensors: Any) -> Any:
    xs = sizes(tensors)
    shape = torch.broadcast_shapes(*(x.shape for x in xs))
    return [expand(x, shape) if type(x) is Dual else x.expand(shape) for x in xs]


@rule(torch.narrow, Tensor.narrow)
def narrow(input: Dual, dim: int, start: int, length: int) -> Any:
    y = input.primal.narrow(dim, start, length)
    if isinstance(input.tangent, RankOne):
        start = start % input.primal.shape[dim] if start < 0 else start
        part = input.tangent.narrow(dim % input.primal.ndim, start, length)
        return part_of(input, y, part)
    return view_of(input, y, input.dense().narrow(up(dim), start, length))


def pieces(input: Dual, parts: Sequence[Tensor], dim: int) -> Any:
    """The Duals of consecutive parts of the primal along a dimension."""
    out, start = [], 0
    held = input.tangent
    dx = held if isinstance(held, RankOne) else input.dense()
    for y in parts:
        length = y.shape[dim]
        if isinstance(dx, RankOne):
            out.append(part_of(input, y, dx.narrow(dim % input.primal.ndim, start, length)))
        else:
            out.append(view_of(input, y, dx.narrow(up(dim), start, length)))
        start += length
    return out


@rule(torch.chunk, Tensor.chunk)
def chunk(input: Dual, chunks: int, dim: int = 0) -> Any:
    return pieces(input, input.primal.chunk(chunks, dim), dim)


@rule(torch.split, Tensor.split, torch.split_with_sizes, Tensor.split_with_sizes)
def split(tensor: Dual, split_size_or_sections: Any, dim: int = 0) -> Any:
    return pieces(tensor, tensor.primal.split(split_size_or_sections, dim), dim)


@rule(torch.tensor_split, Tensor.tensor_split)
def tensor_split(input: Dual, indices_or_sections: Any, dim: int = 0) -> Any:
    return pieces(input, input.primal.tensor_split(indices_or_sections, dim), dim)


@rule(torch.unbind, Tensor.unbind)
def unbind(input: Dual, dim: int = 0) -> Any:
    dx = input.dense()
    pairs = zip(input.primal.unbind(dim), dx.unbind(up(dim)), strict=True)
    return [view_of(input, y, dy) for y, dy in pairs]


@rule(Tensor.__iter__)
def iterate(input: Dual) -> Any:
    return iter(unbind(input))


@rule(torch.select, Tensor.select)
def select(input: Dual, dim: int, index: int) -> Any:
    return view_of(input, input.primal.select(dim, index), input.dense().select(up(dim), index))


@rule(Tensor.contiguous)
def contiguous(x: Dual, memory_format: torch.memory_format = torch.contiguous_format) -> Any:
    y = x.primal.contiguous(memory_format=memory_format)
    if y is x.primal or memory_format is not torch.contiguous_format:
        return x if y is x.primal else (y, x.dense().clone())
    return y, x.dense().contiguous() if not x.dense().is_contiguous() else x.dense().clone()


@rule(torch.clone, Tensor.clone, Tensor.__deepcopy__)
def clone(x: Dual, *_: Any, **kwargs: Any) -> Any:
    return x.primal.clone(**kwargs), x.dense().clone()


def _casts() -> None:
    """Casts and moves: the tangent follows; where nothing changes the Dual itself is returned, as PyTorch does."""
    for name in ("to", "type_as", "type", "float", "double", "half", "bfloat16", "cpu", "cuda"):
        rule(getattr(Tensor, name))(_cast(getattr(Tensor, name)))


def _cast(method: Callable) -> Callable:
    def pushed(x: Any, *args: Any, **kwargs: Any) -> Any:
        if type(x) is not Dual:
            return method(x, *(primal(a) for a in args), **kwargs)
        y = method(x.primal, *(primal(a) for a in args), **kwargs)
        if y is x.primal or not is_differentiable(y):
            return x if y is x.primal else y
        held = structure(x)
        if isinstance(held, Tensor):
            return y, held.to(dtype=y.dtype, device=y.device, copy=True)
        return Dual(y, held.to(dtype=y.dtype, device=y.device), x.reach, x.diary)

    return pushed


_casts()


def with_zeros(tensors: Sequence[Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Primals and tangents of a sequence, zeros where there is no tangent; the empty ones of a cache included."""
    k = next(x.diary.num_tangents for x in tensors if type(x) is Dual)
    return [primal(x) for x in tensors], [x.dense() if type(x) is Dual else zeros_for(x, k) for x in tensors]


@rule(torch.cat, torch.concat, torch.concatenate)
def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    kept = [x for x in tensors if x.numel() or x.ndim != 1]  # torch ignores legacy empties of shape [0]
    if not any(type(x) is Dual for x in kept):
        return torch.cat([primal(x) for x in tensors], dim)
    xs, dxs = with_zeros(kept)
    dtype = torch.cat(xs, dim)
    return dtype, torch.cat([dx.to(dtype.dtype) for dx in dxs], up(dim))


@rule(torch.stack)
def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    xs, dxs = with_zeros(tensors)
    return torch.stack(xs, dim), torch.stack(dxs, up(dim))


@rule(Tensor.repeat)
def repeat(x: Dual, *repeats: Any) -> Any:
    times = sizes(repeats)
    return x.primal.repeat(times), aligned(x.dense(), len(times)).repeat(1, *times)


@rule(torch.repeat_interleave, Tensor.repeat_interleave)
def repeat_interleave(input: Dual, repeats: Any, dim: int | None = None, **kwargs: Any) -> Any:
    if dim is None:
        return NotImplemented
    y = torch.repeat_interleave(input.primal, repeats, dim, **kwargs)
    return y, torch.repeat_interleave(input.dense(), repeats, up(dim), **kwargs)


@rule(torch.roll, Tensor.roll)
def roll(input: Dual, shifts: Any, dims: Any = None) -> Any:
    if dims is None or dims == ():
        return NotImplemented
    moved = up(dims) if isinstance(dims, int) else tuple(d % input.primal.ndim + 1 for d in dims)
    return torch.roll(input.primal, shifts, dims), torch.roll(input.dense(), shifts, moved)


@rule(torch.flip, Tensor.flip)
def flip(input: Dual, *dims: Any) -> Any:
    axes = sizes(dims)
    return input.primal.flip(axes), input.dense().flip([d % input.primal.ndim + 1 for d in axes])


@rule(torch.tril, Tensor.tril)
def tril(input: Dual, diagonal: int = 0) -> Any:
    return input.primal.tril(diagonal), input.dense().tril(diagonal)


@rule(torch.triu, Tensor.triu)
def triu(input: Dual, diagonal: int = 0) -> Any:
    return input.primal.triu(diagonal), input.dense().triu(diagonal)
