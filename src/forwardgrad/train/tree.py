"""Nested states as tensors with names and a JSON skeleton: what safetensors can hold, and no pickle needs to.

Tensors come back bit for bit and with their strides, since a matrix product may round differently on another layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from forwardgrad.errors import CheckpointError
from forwardgrad.gradient import FactoredGradient

_PLAIN = (str, int, float, bool, type(None))


def flatten(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """A JSON skeleton, and the tensors it speaks of, by path.

    Args:
        tree: mappings, lists, tuples, numbers, strings, None and tensors, factored gradients among them.

    Raises:
        CheckpointError: anything else; names its path.
    """
    tensors: dict[str, Tensor] = {}
    return _skeleton(tree, "", tensors), tensors


def unflatten(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree behind a skeleton; mappings come back as dicts."""
    if not isinstance(skeleton, dict):
        return skeleton
    match skeleton:
        case {"tensor": path, "stride": stride}:
            return _laid_out(tensors[path], stride)
        case {"map": pairs}:
            return {key: unflatten(value, tensors) for key, value in pairs}
        case {"list": values}:
            return [unflatten(value, tensors) for value in values]
        case {"tuple": values}:
            return tuple(unflatten(value, tensors) for value in values)
        case {"factored": factors, "shape": shape}:
            left, right, weights = (unflatten(factor, tensors) for factor in factors)
            return FactoredGradient(left, right, weights, shape)
    raise KeyError(f"no such form: {sorted(skeleton)}")


def _skeleton(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    below = lambda key: f"{path}/{key}" if path else str(key)
    if isinstance(tree, FactoredGradient):
        if tree.factors is None:
            return _skeleton(tree.densify(), path, tensors)
        parts = {"left": tree.left, "right": tree.right, "weights": tree.weights}
        factors = [_skeleton(part, below(name), tensors) for name, part in parts.items()]
        return {"factored": factors, "shape": list(tree.shape)}
    if isinstance(tree, Tensor):
        # A copy of its own: safetensors refuses tensors that share memory, and a factor is a view of a whole draw.
        tensors[path] = tree.detach().cpu().contiguous().clone()
        return {"tensor": path, "stride": list(tree.stride())}
    if isinstance(tree, Mapping):
        return {"map": [[key, _skeleton(value, below(key), tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        values = [_skeleton(value, below(place), tensors) for place, value in enumerate(tree)]
        return {"list" if isinstance(tree, list) else "tuple": values}
    if isinstance(tree, _PLAIN):
        return tree
    needs = "a checkpoint needs states of tensors, numbers and strings"
    raise CheckpointError(needs, f"a {type(tree).__name__}", "keep it out of the state", path=path)


def _laid_out(tensor: Tensor, stride: list[int]) -> Tensor:
    if list(tensor.stride()) == stride or 0 in stride:
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
