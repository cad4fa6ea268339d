"""Rules made of several products must not have autocast look into them: they take its decision once, at the door."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from forwardgrad.forward_ad.dual import Dual

Rule = TypeVar("Rule", bound=Callable[..., Any])


def narrowed(rule: Rule) -> Rule:
    """For functions that autocast runs in its low precision: float32 arguments are cast down, then it is off."""
    return _settled(rule, lambda dtype, low: low if dtype == torch.float32 else dtype)


def widened(rule: Rule) -> Rule:
    """For functions that autocast runs in float32: low-precision arguments are cast up, then it is off."""
    return _settled(rule, lambda dtype, low: torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype)


def _settled(rule: Rule, decide: Callable[[torch.dtype, torch.dtype], torch.dtype]) -> Rule:
    @wraps(rule)
    def settled(*args: Any, **kwargs: Any) -> Any:
        if not torch._C._is_any_autocast_enabled():
            return rule(*args, **kwargs)
        device = next(x.primal.device.type for x in (*args, *kwargs.values()) if type(x) is Dual)
        if not torch.is_autocast_enabled(device):
            return rule(*args, **kwargs)
        low = torch.get_autocast_dtype(device)

        def cast(x: Any) -> Any:
            if not isinstance(x, Tensor) or not x.is_floating_point() or x.device.type != device:
                return x
            return x.to(decide(x.dtype, low))

        with torch.autocast(device, enabled=False):
            return rule(*map(cast, args), **{name: cast(x) for name, x in kwargs.items()})

    return settled  # type: ignore[return-value]
