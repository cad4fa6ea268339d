"""In-place operations that need no copy, that draw, or that cannot be: the rest is in `rules.inplace`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.errors import UnsupportedError
from forwardgrad.forward_ad.dual import Dual, aligned, primal, provenance, tangent
from forwardgrad.forward_ad.registry import RULES, rule
from forwardgrad.forward_ad.rules.inplace import grow, guard_parameter, writable, write

_RESHAPING = "t_ transpose_ swapaxes_ swapdims_ squeeze_ unsqueeze_ resize_ resize_as_ as_strided_ set_".split()
_DRAWS = "normal_ uniform_ exponential_ cauchy_ geometric_ log_normal_ random_ bernoulli_".split()


def _refused(name: str) -> Callable[..., Any]:
    def refused(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        trace = provenance((x, *args), kwargs)[1]
        guard_parameter(trace, primal(x), getattr(Tensor, name))
        raise UnsupportedError(
            needs="a pushed-forward tensor needs to keep its shape and memory",
            found=f"`{name}`, which changes them in place",
            cure=f"use `{name.rstrip('_')}` and its result",
            path=trace.locate(),
        )

    return refused


RULES.update({getattr(Tensor, name): _refused(name) for name in _RESHAPING})


def _drawn(func: Callable) -> Callable[..., Any]:
    def drawn(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        trace = provenance((x, *args), kwargs)[1]
        guard_parameter(trace, primal(x), func)
        y = func(torch.empty_like(primal(x)), *map(primal, args), **kwargs)
        return write(x, y, None, 0, trace, func)

    return drawn


RULES.update({getattr(Tensor, name): _drawn(getattr(Tensor, name)) for name in _DRAWS})


@rule(F.relu_, torch.relu_, Tensor.relu_)
def relu_(x: Dual) -> Tensor:
    guard_parameter(x.diary, x.primal, Tensor.relu_)
    _, dx = writable(x, x.diary, Tensor.relu_)
    dx.mul_(x.primal.relu_() > 0)
    return x


def _linear(func: Callable, sign: int) -> Callable[..., Any]:
    def pushed(x: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
        reach, trace = provenance((x, other), {})
        guard_parameter(trace, primal(x), func)
        place, dx = writable(x, trace, func)
        place.primal.add_(primal(other), alpha=sign * alpha)
        dz = tangent(other)
        if dz is not None:
            dx.add_(aligned(dz, dx.ndim - 1), alpha=sign * alpha)
        grow(place, reach, trace)
        return x

    return pushed


RULES.update({func: _linear(func, 1) for func in (Tensor.add_, Tensor.__iadd__)})
RULES.update({func: _linear(func, -1) for func in (Tensor.sub_, Tensor.__isub__)})
