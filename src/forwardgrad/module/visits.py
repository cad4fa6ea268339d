"""Inputs of layers, shown to a method while the model runs, and replaced by what it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from forwardgrad.errors import RungError
from forwardgrad.objective import Visit


@contextmanager
def visited(modules: Sequence[tuple[str, nn.Module]], visit: Visit) -> Iterator[None]:
    """Inside, every layer that holds a matrix shows its input, and takes what is given back in its place.

    Vectors (norms, scales) belong to the matrix before them: between two matrices a signal is one hidden activation.

    Args:
        modules: by path.
        visit: (path, input) -> input.

    Raises:
        RungError: when the model runs, a layer that is used more than once, whose input has no single value.
    """
    seen: set[str] = set()
    handles = [
        layer.register_forward_pre_hook(_visitor(name, visit, seen), with_kwargs=True)
        for name, layer in modules
        if any(p is not None and p.ndim > 1 for p in layer._parameters.values())
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _visitor(name: str, visit: Visit, seen: set[str]) -> Callable[..., Any]:
    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in seen:
            found, cure = "a second use", "give each use a layer of its own"
            raise RungError("a hidden activation needs a layer used once", found, cure, path=name)
        seen.add(name)
        if args and isinstance(args[0], Tensor):
            return (visit(name, args[0]), *args[1:]), kwargs
        return args, {key: visit(name, x) if key == "input" else x for key, x in kwargs.items()}

    return before
