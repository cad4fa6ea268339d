"""A record of every operation's types: what proves that a step is made of integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Operation(NamedTuple):
    """What went into an operation, and what came out.

    Args:
        name: PyTorch's, e.g. "aten.mm.default".
        inputs: types of its tensors and of its floating-point Python numbers, in order.
        outputs: types of what it gave.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def floating(self) -> bool:
        """Whether a floating-point number, real or complex, went in or came out."""
        return any("float" in kind or "complex" in kind for kind in (*self.inputs, *self.outputs))


class DtypeTrace(TorchDispatchMode):
    """Inside, every PyTorch operation is counted by the types of its inputs and outputs.

    It sees what PyTorch dispatches, below autograd, Python numbers among the arguments included. It does not see what
    NumPy or Python compute with numbers read out of tensors; a read is itself an operation (`_local_scalar_dense`),
    and is in `reads`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[Operation] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations[Operation(str(func), _kinds((args, kwargs or {})), _kinds(out))] += 1
        return out

    @property
    def floating(self) -> dict[Operation, int]:
        """Operations with a floating-point number in or out, and how often each ran."""
        return {operation: count for operation, count in self.operations.items() if operation.floating}

    @property
    def reads(self) -> int:
        """How often a number was read out of a tensor."""
        return sum(count for operation, count in self.operations.items() if "_local_scalar_dense" in operation.name)


def _kinds(tree: Any) -> tuple[str, ...]:
    """The types of tensors, and of Python numbers that are not integers."""
    leaves = tree_leaves(tree)
    named = [leaf.dtype if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves]
    plain = [kind.__name__ if isinstance(kind, type) else str(kind).removeprefix("torch.") for kind in named]
    return tuple(p for p, leaf in zip(plain, leaves, strict=True) if isinstance(leaf, Tensor | float | complex))
