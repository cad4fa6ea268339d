"""In-place operations, slice assignment and ``out=``: the primal and its tangent are written together.

A Dual is written through its own memory, so that its views see the change; a plain tensor that a Dual is written into
gets a *shadow*: tangents laid over its whole storage, found again by every later use of that storage.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.errors import ParameterChangedError, UnsupportedError
from forwardgrad.forward_ad.dual import Dual, Shadow, Trace, dispatch, primal, provenance, tangent
from forwardgrad.forward_ad.registry import RULES, rule

_DUNDERS = {"__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div", "__ipow__": "pow"}
_NOT_ARITHMETIC = {
    "requires_grad_",
    "share_memory_",
    "rename_",
    "retain_grad",
    "apply_",
    "map_",
    "map2_",
    "detach_",
}


def guard_parameter(trace: Trace, target: Any, func: Any) -> None:
    """Refuses a write into a parameter before it happens, and multiplies what is pending before any other."""
    if trace.pending:
        trace.multiply()
    if not isinstance(target, Tensor) or type(target) is Dual:
        return
    name = trace.parameters.get(target.untyped_storage()._cdata)
    if name is not None:
        raise ParameterChangedError(
            needs="a forward pass needs its parameters unchanged",
            found=f"parameter `{name}` written in place by `{getattr(func, '__name__', func)}`",
            cure="compute on a copy, or keep the changing value in a buffer",
            path=trace.locate(),
        )


def write(target: Tensor, y: Tensor, dy: Tensor | None, reach: int, trace: Trace, func: Any) -> Tensor:
    """Writes a value and its tangent into `target` (a Dual, or a plain tensor that becomes shadowed)."""
    guard_parameter(trace, primal(target), func)
    place, dx = writable(target, trace, func)
    place.primal.copy_(y)
    if dy is None:
        dx.zero_()
    else:
        dx.copy_(dy)
    grow(place, reach, trace)
    return target


def shadow(x: Tensor, trace: Trace) -> Dual:
    """A plain tensor as a Dual over its shadow, made of zeros at the first write."""
    storage = x.untyped_storage()
    entry = trace.shadows.get(storage._cdata)
    if entry is None:
        numel = storage.nbytes() // x.element_size()
        zeros = torch.zeros((trace.num_tangents, numel), dtype=x.dtype, device=x.device)
        address, shadows = storage._cdata, trace.shadows
        watch = weakref.ref(storage, lambda _: shadows.pop(address, None))
        entry = shadows[address] = Shadow(x.dtype, watch, zeros)
    view = laid(entry, x)
    if view is None:
        raise UnsupportedError(
            needs="writing a pushed-forward tensor needs memory of one floating dtype",
            found=f"memory of {entry.dtype} seen as {x.dtype}",
            cure="write into a tensor of its own",
            path=trace.locate(),
        )
    return Dual(x, view, entry.reach, trace)


def laid(entry: Shadow, x: Tensor) -> Tensor | None:
    """The shadow as it lies under x, which may see complex numbers as their parts; None for any other dtype."""
    over = entry.tangent
    if x.is_complex() and not over.is_complex():
        over = torch.view_as_complex(over.view(over.shape[0], -1, 2))
    elif over.is_complex() and not x.is_complex():
        over = torch.view_as_real(over).flatten(1)
    if over.dtype != x.dtype:
        return None
    return over.as_strided((over.shape[0], *x.shape), (over.shape[1], *x.stride()), x.storage_offset())


def grow(place: Dual, reach: int, trace: Trace) -> None:
    """Notes that the place now also holds what `reach` says."""
    place.reach |= reach
    entry = trace.shadows.get(place.primal.untyped_storage()._cdata)
    if entry is not None:
        entry.reach |= reach


def writable(target: Tensor, trace: Trace, func: Any) -> tuple[Dual, Tensor]:
    """`target` as a Dual, and its tangent, which may be written to.

    Raises:
        UnsupportedError: a view of it, or what it is a view of, has a tangent in other memory, and would not see it.
    """
    place = target if type(target) is Dual else shadow(target, trace)
    if place.apart:
        raise UnsupportedError(
            needs="writing in place into a view, or what it views, needs tangents that are views as well",
            found=f"`{getattr(func, '__name__', func)}` where a tangent had to be copied",
            cure="use the out-of-place operation",
            path=trace.locate(),
        )
    if not isinstance(place.tangent, Tensor):
        place.tangent = place.dense().clone()
    return place, place.tangent


def out_of_place(func: Callable) -> Callable[..., Any]:
    """The out-of-place twin of an in-place function: its namesake, or itself on a copy."""
    name = func.__name__
    home = Tensor if hasattr(Tensor, name) else F
    twin = getattr(home, _DUNDERS.get(name, name.rstrip("_")), None)
    if twin is not None and name not in ("zero_", "fill_", "copy_", "fill_diagonal_"):
        return twin

    def on_a_copy(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return func(x.clone(), *args, **kwargs)

    on_a_copy.__qualname__ = on_a_copy.__name__ = name.rstrip("_")
    return on_a_copy


def in_place_rule(func: Callable) -> Callable[..., Any]:
    """The rule of an in-place method: compute out of place, then write value and tangent where they belong."""
    twin = out_of_place(func)

    def pushed(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        reach, trace = provenance((x, *args), kwargs)
        guard_parameter(trace, primal(x), func)
        y = dispatch(twin, (x, *args), kwargs)
        return write(x, primal(y), tangent(y), reach, trace, func)

    return pushed


def _in_place_functions() -> dict[Any, Callable[..., Any]]:
    """Every in-place method of Tensor and function of torch, with its rule."""
    found: dict[Any, Callable[..., Any]] = {}
    for space in (Tensor, torch, torch._C._nn, torch._C._VariableFunctions):
        for name in dir(space):
            if name in _DUNDERS or (name.endswith("_") and not name.endswith("__") and name not in _NOT_ARITHMETIC):
                func = getattr(space, name)
                if callable(func) and hasattr(Tensor, _DUNDERS.get(name, name)):
                    found[func] = in_place_rule(getattr(Tensor, name))
                elif callable(func) and hasattr(F, name[:-1]) and not name.startswith("_"):  # activations
                    found[func] = in_place_rule(func)
    return found


IN_PLACE = _in_place_functions()
RULES.update(IN_PLACE)


@rule(Tensor.zero_)
def zero_(x: Dual) -> Tensor:
    return write(x, torch.zeros_like(x.primal), None, 0, x.diary, Tensor.zero_)


@rule(Tensor.fill_)
def fill_(x: Tensor, value: Any) -> Tensor:
    reach, trace = provenance((x, value), {})
    dy = tangent(value)
    if dy is not None:
        dy = dy.reshape(dy.shape[0], *(1,) * primal(x).ndim).clone()
    return write(
        x,
        primal(value).clone() if isinstance(value, Tensor) else torch.full_like(primal(x), value),
        dy,
        reach,
        trace,
        Tensor.fill_,
    )


@rule(Tensor.copy_)
def copy_(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    reach, trace = provenance((x, source), {})
    dy = tangent(source)
    if dy is not None and dy.ndim < primal(x).ndim + 1:
        dy = dy.reshape(dy.shape[0], *(1,) * (primal(x).ndim + 1 - dy.ndim), *dy.shape[1:])
    return write(x, primal(source), dy, reach, trace, Tensor.copy_)


@rule(Tensor.__setitem__)
def setitem(x: Tensor, index: Any, value: Any) -> None:
    from forwardgrad.forward_ad.rules.indexing import primal_index, shifted_index

    reach, trace = provenance((x, value), {})
    guard_parameter(trace, primal(x), Tensor.__setitem__)
    place, dx = writable(x, trace, Tensor.__setitem__)
    index = primal_index(index)
    place.primal[index] = primal(value)
    dy = tangent(value)
    moved = shifted_index(index)
    if moved is None:  # K would not stay in front
        for k, each in enumerate(dx):
            each[index] = 0 if dy is None else dy[k]
    elif dy is None:
        dx[moved] = 0
    else:
        shape = dy.shape[1:]
        lead = dx[moved].ndim - dy.ndim  # ones to put between K and the rest; below 0, ones to take away
        dx[moved] = dy.reshape(dy.shape[0], *(1,) * lead, *shape[max(-lead, 0) :])
    grow(place, reach, trace)


def write_out(out: Any, result: Any) -> Any:
    """Writes a result into the tensor given as ``out=``."""
    if not isinstance(out, Tensor) or not isinstance(result, Tensor):
        raise UnsupportedError("out= needs one tensor", f"{type(out).__name__}", "call the function without out=")
    if type(result) is not Dual:
        return out.copy_(result)
    if primal(out).shape != result.primal.shape:
        primal(out).resize_(result.primal.shape)
    return write(out, result.primal, result.dense(), result.reach, result.diary, torch.Tensor.copy_)
