r"""Layer, group, instance and root-mean-square normalisation: y = w x^ + b, with statistics per sample.

The Jacobian S of x -> x^ is symmetric, so PyTorch's fused backward without weights gives S dx, and

.. math:: dy_k = w \circ S\, dx_k + dw_k \circ \hat x + db_k,

where the second part is the same normalisation with dw_k and db_k in the places of w and b. Statistics are those of
the primal, computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.dual import aligned, in_dtype, primal, tangent
from forwardgrad.forward_ad.registry import rule
from forwardgrad.forward_ad.rules.batch_norm import push_constant

Pair = tuple[Tensor, Tensor | None]
aten = torch.ops.aten


def push_affine(
    jacobian: Callable[[Tensor], Tensor],
    normalised: Callable[[Tensor | None, Tensor | None], Tensor],
    w: Tensor | None,
    dx: Tensor | None,
    dw: Tensor | None,
    db: Tensor | None,
) -> Tensor:
    """w o S dx_k + dw_k o x^ + db_k for every k.

    Args:
        jacobian: one tangent's S dx, in one fused pass.
        normalised: (w, b) -> w o x^ + b, in one fused pass.
        w: broadcasts against y, or None for 1.
        dx: [K, *s] or None.
        dw: [K, *], each broadcasting against y, or None.
        db: like dw.
    """
    k = next(v.shape[0] for v in (dx, dw, db) if v is not None)
    if w is not None and dx is not None:
        w = w.to(dx.dtype)
    if k == 1:
        shift = None if db is None else db[0]
        affine = None if dw is None else normalised(dw[0], shift)
        s = None if dx is None else jacobian(dx[0])
        if affine is not None:
            if s is not None:
                affine = affine.add_(s) if w is None else affine.addcmul_(s, w)
            return affine.unsqueeze(0)
        if s is None:
            s = normalised(None, None).zero_()
        elif w is not None:
            s = s.mul_(w)
        return (s if shift is None else s.add_(shift)).unsqueeze(0)
    xhat = normalised(None, None)
    dy = xhat.new_empty((k, *xhat.shape)) if dx is None else torch.empty_like(dx, dtype=xhat.dtype)
    for i, out in enumerate(dy):
        s = None if dx is None else jacobian(dx[i])
        if dw is not None:
            if db is None:
                torch.mul(xhat, dw[i], out=out)
            else:
                torch.addcmul(db[i].to(out.dtype), xhat, dw[i].to(out.dtype), out=out)
            if s is not None:
                out.add_(s) if w is None else out.addcmul_(s, w)
        elif s is not None:
            out.copy_(s) if w is None else torch.mul(s, w, out=out)
            if db is not None:
                out.add_(db[i])
        elif db is not None:
            out.copy_(db[i])
    return dy


@rule(F.layer_norm)
def layer_norm(
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Pair:
    shape = list(normalized_shape)
    x, w, b = primal(input), primal(weight), primal(bias)
    y, mean, inverse = torch.native_layer_norm(x, shape, w, b, eps)
    x = x.to(y.dtype)  # autocast may have widened it
    # Half precision beside wider weights has wider statistics, which the kernel takes with wide weights only.
    ones = None if mean.dtype == x.dtype else torch.ones(shape, dtype=mean.dtype, device=x.device)

    def jacobian(v: Tensor) -> Tensor:
        args = (shape, mean, inverse, ones, None, [True, False, False])
        return aten.native_layer_norm_backward(v.to(x.dtype), x, *args)[0]

    def normalised(scale: Tensor | None, shift: Tensor | None) -> Tensor:
        return torch.native_layer_norm(x, shape, scale, shift, eps)[0]

    return y, push_affine(jacobian, normalised, w, tangent(input), tangent(weight), tangent(bias))


@rule(F.group_norm)
def group_norm(
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Pair:
    x = primal(input)
    y = F.group_norm(x, num_groups, primal(weight), primal(bias), eps)
    return y, push_groups(x.to(y.dtype), num_groups, eps, input, weight, bias)


def push_groups(x: Tensor, groups: int, eps: float, input: Any, weight: Any, bias: Any) -> Tensor:
    """The tangent of a group norm of x: [N, C, *]."""
    n, channels, size = x.shape[0], x.shape[1], prod(x.shape[2:])
    x = x.contiguous()
    xhat, mean, inverse = aten.native_group_norm(x, None, None, n, channels, size, groups, eps)

    def jacobian(v: Tensor) -> Tensor:
        args = (None, n, channels, size, groups, [True, False, False])
        return aten.native_group_norm_backward(v.to(x.dtype).contiguous(), x, mean, inverse, *args)[0]

    def normalised(scale: Tensor | None, shift: Tensor | None) -> Tensor:
        if scale is None:
            return xhat
        return xhat * scale if shift is None else torch.addcmul(shift, xhat, scale)

    def beside(v: Tensor | None) -> Tensor | None:
        return None if v is None else v.to(x.dtype).reshape(*v.shape, *(1,) * (x.ndim - 2))

    w, dx, dw, db = primal(weight), tangent(input), tangent(weight), tangent(bias)
    return push_affine(jacobian, normalised, beside(w), dx, beside(dw), beside(db))


@rule(F.instance_norm)
def instance_norm(
    input: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Pair:
    x, w = primal(input), primal(weight)
    y = F.instance_norm(x, running_mean, running_var, w, primal(bias), use_input_stats, momentum, eps)
    if use_input_stats:  # each channel is a group of its own
        return y, push_groups(x, x.shape[1], eps, input, weight, bias)
    assert running_mean is not None and running_var is not None
    inverse = (running_var + eps).rsqrt_()
    return y, push_constant(x, w, running_mean, inverse, tangent(input), tangent(weight), tangent(bias))


@rule(F.rms_norm, torch.rms_norm)
def rms_norm(input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Pair:
    r"""y = w x r with r = (mean(x^2) + eps)^-1/2, so dy_k = w r (dx_k - x^ mean(x^ dx_k)) + dw_k x^."""
    x, w, shape = primal(input), primal(weight), tuple(normalized_shape)
    dims = list(range(-len(shape), 0))
    if x.shape[x.ndim - len(dims) :] != shape or (w is not None and w.shape != shape) or x.is_complex():
        return NotImplemented  # stock says what is wrong
    dtype = F.rms_norm(x, shape, w, eps).dtype if torch._C._is_any_autocast_enabled() else x.dtype
    x = x.to(torch.promote_types(dtype, torch.float32))
    mean = torch.linalg.vector_norm(x, dim=dims, keepdim=True).square_().div_(prod(shape))  # of the squares
    inverse = mean.add_(torch.finfo(x.dtype).eps if eps is None else eps).rsqrt_()
    xhat, dx, dw = x * inverse, tangent(input), tangent(weight)
    if dx is None:
        dy = None if dw is None else (xhat * aligned(dw, x.ndim)).to(dtype)
    else:
        dy = torch.mul(dx, inverse, out=torch.empty_like(dx, dtype=x.dtype))
        for k, v in enumerate(dy):  # now r dx_k
            v.addcmul_(xhat, inner(xhat, v, len(dims)), value=-1 / prod(shape))
            if w is not None:
                v.mul_(w)
            if dw is not None:
                v.addcmul_(xhat, dw[k].to(v.dtype))
        dy = in_dtype(dy, dtype)
    y = xhat if w is None else xhat.mul_(w)
    return in_dtype(y, dtype), dy


def inner(x: Tensor, z: Tensor, ndim: int) -> Tensor:
    """<x, z> over the last `ndim` dimensions, which stay as ones: a product of rows that writes no x z."""
    rows, size = x.shape[: x.ndim - ndim], prod(x.shape[x.ndim - ndim :])
    return (x.reshape(-1, 1, size) @ z.reshape(-1, size, 1)).view(*rows, *(1,) * ndim)
