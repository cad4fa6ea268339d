"""The table of layers that have a shorter way to the same value.

GPT-2's GELU is eight operations in its library, and one kernel in PyTorch; pushed, eight become some twenty passes
over memory, and one becomes two. The shorter way is made of functions that have rules, so that nothing here knows
about tangents. It is taken only where a trial has shown that it gives what the layer's own code gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import Tensor

# (layer, x) -> what the layer's own forward gives, or NotImplemented where this layer is not the plain case.
Short = Callable[[Any, Tensor], Any]

SHORTS: dict[re.Pattern[str], Short] = {}


def whole(name: str) -> Callable[[Short], Short]:
    """Registers the decorated function for the layers whose class has a name like this.

    Args:
        name: regular expression for the module path and the name of the class.
    """

    def register(short: Short) -> Short:
        SHORTS[re.compile(name)] = short
        return short

    return register


@lru_cache(maxsize=1024)
def short_of(kind: Any) -> Short | None:
    """The shorter way of a class of layers; None where there is none."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    return next((short for pattern, short in SHORTS.items() if pattern.fullmatch(name)), None)
