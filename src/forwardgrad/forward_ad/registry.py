"""The table of rules: which function knows how to push tangents through which torch function.

A rule takes the arguments of the torch function it stands for, any of which may be a `Dual`, and returns

* ``(y, dy)``: a primal [*s] and its tangent [K, *s], or ``(y, None)`` where no tangent comes out;
* a list of such pairs or of Duals, for functions with several tensor outputs (the caller gets a tuple);
* ``NotImplemented``: these arguments are not the rule's business, use the fallback;
* a Dual, a number, a plain tensor: returned to the caller as it is.

A rule never hands on its input's tangent as the tangent of a new primal: an in-place write would be seen in both.
`ANSWERS` holds the functions that are not differentiated; what they return is the caller's, whatever its type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Rule = TypeVar("Rule", bound=Callable[..., Any])

RULES: dict[Any, Callable[..., Any]] = {}
ANSWERS: dict[Any, Callable[..., Any]] = {}


def rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Registers the decorated function as the rule of each of `functions` (names torch lacks are passed as None)."""

    def register(pushed: Rule) -> Rule:
        for function in functions:
            if function is not None:
                RULES[function] = pushed
        return pushed

    return register
