"""The mode that stands over a push: it sees plain tensors too, so that one written into by a Dual becomes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from forwardgrad.forward_ad.dual import Dual, Trace, dispatch
from forwardgrad.forward_ad.rules.inplace import IN_PLACE, guard_parameter, laid

WRITING = {*IN_PLACE, Tensor.__setitem__, Tensor.data.__set__}
set_grad_enabled = torch._C._set_grad_enabled  # what torch.no_grad and its like call


class Pushing(TorchFunctionMode):
    """Dispatches every torch function that meets a Dual, or a plain tensor that holds what a Dual wrote into it.

    A push runs with grad mode on, so that the model's own ``no_grad`` can be told from it, and stops tangents as it
    stops reverse mode; every operation by itself runs with grad mode off, so that nothing goes onto a tape.
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is set_grad_enabled:
            return func(*args, **kwargs)
        if not torch.is_grad_enabled():
            return self.stopped(func, types, args, kwargs)
        set_grad_enabled(False)
        try:
            if self.trace.shadows:
                args, kwargs = tree_map_only(Tensor, self.shadowed, (args, dict(kwargs)))
                if any(type(x) is Dual for x in args):
                    return dispatch(func, args, kwargs)
            if Dual in types:
                return dispatch(func, args, kwargs)
            self.guard(func, args, kwargs)
            return func(*args, **kwargs)
        finally:
            set_grad_enabled(True)

    def stopped(self, func: Callable, types: Any, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """Inside the model's own ``no_grad``: values only; a Dual that is written in place keeps its tangent."""
        target = args[0] if args else None
        if Dual in types:
            args, kwargs = tree_map_only(Dual, lambda x: x.primal, (args, dict(kwargs)))
        self.guard(func, args, kwargs)
        out = func(*args, **kwargs)
        return target if type(target) is Dual and out is target.primal else out

    def guard(self, func: Callable, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """Refuses an operation on plain tensors that would write into a parameter by another name."""
        if args and (func in WRITING or kwargs.get("inplace")):
            guard_parameter(self.trace, args[0], func)
        if "out" in kwargs:
            guard_parameter(self.trace, kwargs["out"], func)

    def shadowed(self, x: Tensor) -> Tensor:
        """x as a Dual, when its storage has been written into by one."""
        if type(x) is Dual or not (shadow := self.trace.shadows.get(x.untyped_storage()._cdata)):
            return x
        tangent = laid(shadow, x)
        return x if tangent is None else Dual(x, tangent, shadow.reach, self.trace)
