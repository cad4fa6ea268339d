"""Functions that PyTorch itself writes in Python (losses, multi-head attention, ...): their own body is followed.

`torch.nn.functional.multi_head_attention_forward`, say, asks at its door whether an argument overrides torch
functions and, if so, hands itself over whole. Followed inside, it is made of operations that have rules: nothing has to
be written a second time, and every version of PyTorch brings its own body.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any, TypeGuard

import torch

from forwardgrad.forward_ad.dual import Trace
from forwardgrad.forward_ad.mode import Pushing

_HOUSES = {"torch.nn.functional", "torch.functional", "torch._tensor", "torch.nn.init"}
_DOORS = {"has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"}


def is_composite(func: Any) -> TypeGuard[FunctionType]:
    """Whether `func` is Python code of PyTorch that would run op by op, if it did not hand itself over."""
    return (
        isinstance(func, FunctionType) and func.__module__ in _HOUSES and not _DOORS.isdisjoint(func.__code__.co_names)
    )


def push_body(func: FunctionType, args: tuple, kwargs: Mapping[str, Any], trace: Trace) -> Any:
    """Runs the body of a composite function with its door open, so that each operation in it is pushed by itself.

    Args:
        func: see `is_composite`.
        args: its arguments, some of them Duals.
        kwargs: its keyword arguments.
        trace: the push.
    """
    opened = {**func.__globals__, **dict.fromkeys(_DOORS, lambda *_: False)}
    body = FunctionType(func.__code__, opened, func.__name__, func.__defaults__, func.__closure__)
    body.__kwdefaults__ = func.__kwdefaults__
    # The mode steps aside while it handles a function; plain tensors inside need it again.
    with torch.enable_grad(), Pushing(trace):
        return body(*args, **kwargs)


@contextmanager
def slow_paths() -> Iterator[None]:
    """Keeps stock Transformer modules off their fused kernels and nested tensors, which have no forward derivative.

    They keep off them by themselves where they hold a Dual; a frozen layer before a moving one would not. The switch
    is PyTorch's own and one for the process: another thread's model meanwhile runs its slow path, with the same result.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
