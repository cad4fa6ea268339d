"""Steps recomputed as one on the way back: checkpointed reverse unrolling, the rival of forward unrolling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


def recomputed(fn: Callable[..., Any], *args: Any) -> Any:
    """``fn(*args)``, of which reverse mode stores the arguments only; it is computed again on the way back.

    PyTorch's own checkpoint would compute a segment again at every gradient that is taken inside of it.

    Args:
        fn: called once now without a tape, and once in the backward pass with one; it must draw nothing.
        args: tensors, or nested tuples, lists and dicts of them.
    """
    leaves, spec = tree_flatten(args)
    shape: list[TreeSpec] = []
    tensors = _Recomputed.apply(fn, spec, shape, *leaves)
    return tree_unflatten(tensors, shape[0])


class _Recomputed(Function):
    @staticmethod
    def forward(ctx: Any, fn: Callable[..., Any], spec: TreeSpec, shape: list[TreeSpec], *leaves: Any) -> Any:
        ctx.fn, ctx.spec = fn, spec
        ctx.others = [None if isinstance(x, Tensor) else x for x in leaves]
        ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in leaves))
        out, out_spec = tree_flatten(fn(*tree_unflatten(leaves, spec)))
        shape.append(out_spec)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        kept = zip(ctx.saved_tensors, ctx.others, ctx.needs_input_grad[3:], strict=True)
        leaves = [other if x is None else x.detach().requires_grad_(needed) for x, other, needed in kept]
        with torch.enable_grad():
            out, _ = tree_flatten(ctx.fn(*tree_unflatten(leaves, ctx.spec)))
        pairs = [(y, dy) for y, dy in zip(out, upstream, strict=True) if isinstance(y, Tensor) and y.requires_grad]
        return None, None, None, *_gradients(pairs, leaves)


def _gradients(pairs: Sequence[tuple[Tensor, Tensor]], leaves: Sequence[Any]) -> list[Tensor | None]:
    wanted = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
    outputs, upstream = [y for y, _ in pairs], [dy for _, dy in pairs]
    grads = iter(torch.autograd.grad(outputs, wanted, upstream, allow_unused=True))
    return [next(grads) if isinstance(x, Tensor) and x.requires_grad else None for x in leaves]
