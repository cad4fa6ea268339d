"""Custom ``autograd.Function``s: their own `jvp` is used; one without it is refused, never followed blindly.

PyTorch shows `Function.apply` to no mode, and its forward on a Dual would be differentiated as written, whatever its
backward says (a straight-through estimator would get the wrong slope in silence). So `apply` is watched while a push
runs; calls without Duals go straight through.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd import forward_ad as fwad
from torch.overrides import _get_current_function_mode
from torch.utils import checkpoint

from forwardgrad.errors import UnsupportedError
from forwardgrad.forward_ad.dual import Dual, is_differentiable, provenance
from forwardgrad.forward_ad.mode import Pushing

# What every `apply` holds, and `swish = Swish.apply` goes on holding: so its code is changed for a push, not its name.
_HELD = Function.__dict__["apply"].__func__
_CODE = _HELD.__code__
_STOCK = classmethod(FunctionType(_CODE, _HELD.__globals__, _CODE.co_name, _HELD.__defaults__, _HELD.__closure__))


def _redirected(owner: type) -> Any:
    # As many free variables as torch's own, and none of this module's globals: it runs among torch's.
    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        from forwardgrad.forward_ad.custom import watched

        assert issubclass(cls, owner)
        return watched(cls, *args, **kwargs)

    return apply


_WATCHED = _redirected(Function).__code__

# What the other kind of checkpoint (use_reentrant=False) wraps around a function, to store its inputs.
_STORING = "_checkpoint_without_reentrant_generator"


@contextmanager
def follow_custom_functions() -> Iterator[None]:
    """Watches ``Function.apply``, and with it both kinds of checkpoint, for the duration of a push."""
    before = _HELD.__code__
    storing = getattr(checkpoint, _STORING, None)
    _HELD.__code__ = _WATCHED
    if storing is not None:
        setattr(checkpoint, _STORING, nothing_to_store)
    try:
        yield
    finally:
        _HELD.__code__ = before
        if storing is not None:
            setattr(checkpoint, _STORING, storing)


def nothing_to_store(*_args: Any, **_kwargs: Any) -> Iterator[None]:
    """In the place of a checkpoint's storing: nothing goes onto a tape, so nothing will be recomputed."""
    yield


def watched(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
    """``cls.apply`` while a push runs."""
    bound = _STOCK.__get__(None, cls)
    if torch._C._is_torch_function_all_disabled():  # an inner gradient, which has a tape of its own
        return bound(*args, **kwargs)
    mode = _get_current_function_mode()
    if isinstance(mode, Pushing) and mode.trace.shadows:
        args = tuple(mode.shadowed(x) if isinstance(x, Tensor) else x for x in args)
    if cls is checkpoint.CheckpointFunction:
        run, _preserve, *rest = args
        return run(*rest)
    if not torch.is_grad_enabled():  # the model's own no_grad stops tangents
        return bound(*(x.primal if type(x) is Dual else x for x in args), **kwargs)
    with torch.no_grad():
        if any(type(x) is Dual for x in args):
            return push_function(cls, bound, args)
        return bound(*args, **kwargs)


def push_function(cls: type[Function], apply: Any, args: tuple) -> Any:
    """One custom function: by its jvp, tangent by tangent.

    Raises:
        UnsupportedError: the function defines no jvp.
    """
    reach, trace = provenance(args, {})
    if cls.jvp is Function.jvp:
        raise UnsupportedError(
            needs="a custom autograd.Function needs a `jvp` to be pushed through",
            found=f"`{cls.__name__}` without one",
            cure="give it a `jvp` static method, or write it with plain operations",
            path=trace.locate(),
        )
    primals = [x.primal if type(x) is Dual else x for x in args]
    tangents = {i: x.dense() for i, x in enumerate(args) if type(x) is Dual}
    columns: list[list[Any]] = []
    for k in range(trace.num_tangents):
        with fwad.dual_level():
            out = apply(*(fwad.make_dual(x, tangents[i][k]) if i in tangents else x for i, x in enumerate(primals)))
            flat = out if isinstance(out, tuple) else (out,)
            unpacked = [fwad.unpack_dual(y) if is_differentiable(y) else (y, None) for y in flat]
            columns.append([torch.zeros_like(y) if dy is None and is_differentiable(y) else dy for y, dy in unpacked])
            values = [y for y, _ in unpacked]
    result = tuple(
        Dual(y, torch.stack([column[j] for column in columns]), reach, trace) if is_differentiable(y) else y
        for j, y in enumerate(values)
    )
    return result if isinstance(out, tuple) else result[0]
