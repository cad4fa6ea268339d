"""A weight moved along a tangent, W + eps v, without a moved copy of the model and without touching W.

Finite differences need the loss at W + eps v. Adding in place and subtracting afterwards does not give W back in
half precision. Here a product with a rank-one shift is computed as it is, x W^T + eps (x . b) a^T; any other use
makes the moved weight of that one layer, for that one operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from forwardgrad.errors import ParameterChangedError, UnsupportedError
from forwardgrad.forward_ad.rules.inplace import IN_PLACE
from forwardgrad.tangents.kinds import Kind, RankOne

_METADATA = {
    getattr(Tensor, name).__get__ for name in "shape dtype device ndim requires_grad is_cuda layout".split()
} | {getattr(Tensor, name) for name in "size dim numel is_floating_point is_contiguous __len__".split()}


class Shifted(Tensor):
    """W + eps v as a tensor that is only made where it is used.

    Args:
        weight: W, any shape; never written to.
        kind: one tangent of it, K = 1.
        eps: how far.
        name: the parameter's name, for messages.
    """

    weight: Tensor
    kind: Kind
    eps: float
    label: str

    @staticmethod
    def __new__(cls: type[Shifted], weight: Tensor, kind: Kind, eps: float, name: str) -> Shifted:
        self = Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype, device=weight.device)
        self.weight, self.kind, self.eps, self.label = weight, kind, eps, name
        return self

    def moved(self) -> Tensor:
        """W + eps v, written out."""
        return torch.add(self.weight, self.kind.dense()[0], alpha=self.eps)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable,
        types: tuple[type, ...],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _METADATA:
            return func(args[0].weight, *args[1:], **kwargs)
        if (func in IN_PLACE or func is Tensor.__setitem__) and type(args[0]) is Shifted:
            raise ParameterChangedError(
                "a forward pass needs its parameters unchanged",
                f"parameter `{args[0].label}` written in place by `{func.__name__}`",
                "compute on a copy, or keep the changing value in a buffer",
                path=args[0].label,
            )
        if func is F.linear and len(args) > 1 and type(args[1]) is Shifted and isinstance(args[1].kind, RankOne):
            return shifted_linear(*args, **kwargs)
        if func is F.embedding and type(args[1]) is Shifted:
            return shifted_embedding(*args, **kwargs)
        args, kwargs = tree_map_only(Shifted, lambda x: x.moved(), (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Callable,
        types: tuple[type, ...],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args, kwargs = tree_map_only(Shifted, lambda x: x.moved(), (args, dict(kwargs or {})))
        return func(*args, **kwargs)


def shifted_linear(x: Tensor, weight: Shifted, bias: Tensor | None = None) -> Tensor:
    """x (W + eps a b^T)^T + c = x W^T + c + eps (x . b) a^T."""
    bias = bias.moved() if isinstance(bias, Shifted) else bias
    x = x.moved() if isinstance(x, Shifted) else x
    y = F.linear(x, weight.weight, bias)
    a, b = weight.kind.a[0].to(y.dtype), weight.kind.b
    s = F.linear(x, b.to(x.dtype)).to(y.dtype)
    return y.addcmul_(s, a, value=weight.eps) if not y.requires_grad else y + weight.eps * s * a


def shifted_embedding(
    index: Tensor,
    weight: Shifted,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """(W + eps a b^T)[i] = W[i] + eps a_i b^T, for the rows looked up; the padding row is a constant here.

    Raises:
        UnsupportedError: max_norm, which rewrites the rows it looks up.
    """
    if max_norm is not None:
        raise UnsupportedError(
            "a forward pass needs its parameters unchanged",
            "`F.embedding` with max_norm, which rescales rows of its weight in place",
            "set max_norm=None, and rescale the weight between steps",
            path=weight.label,
        )
    if not isinstance(weight.kind, RankOne):
        moved = weight.moved()
        if padding_idx is not None:
            moved[padding_idx] = weight.weight[padding_idx]
        return F.embedding(index, moved, padding_idx, None, *args, **kwargs)
    rows = F.embedding(index, weight.weight, padding_idx, None, *args, **kwargs)
    a = weight.kind.a[0][index]
    if padding_idx is not None:
        a = a.masked_fill(index == padding_idx % len(weight.weight), 0)
    return rows.addcmul_(a.unsqueeze(-1), weight.kind.b[0], value=weight.eps)
