r"""Batch normalisation: y = w x^ + b per channel, x^ = (x - mu) r, with mu and r = (var + eps)^-1/2.

In training mode mu and var are the batch's, taken over M entries a channel, and

.. math:: dy_k = w r \left(dx_k - \overline{dx_k} - \hat x\, \overline{dx_k \circ \hat x}\right) + dw_k \hat x + db_k,

whose two means come from one pass over dx_k and x. What is left is affine in dx_k and x, channel by channel:

.. math:: dy_k = (w r)\, dx_k + c_k (x - \mu) + d_k.

In evaluation mode mu and var are constants and the means drop out. The running statistics are updated by the primal,
once; they are buffers and stay plain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.dual import primal, tangent
from forwardgrad.forward_ad.registry import rule

Pair = tuple[Tensor, Tensor | None]
aten = torch.ops.aten


def beside(v: Tensor, x: Tensor) -> Tensor:
    """[C] made ready to broadcast against [N, C, *]."""
    return v.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 2))


def channelwise(x: Tensor, mean: Tensor, c: Tensor | None, d: Tensor | None) -> Tensor:
    """c (x - mean) + d for every channel, in one pass: what the kernel of evaluation mode does with variance 1."""
    one = torch.ones_like(mean)
    c = torch.zeros_like(mean) if c is None else c
    return aten.native_batch_norm(
        x, c.to(mean.dtype), None if d is None else d.to(mean.dtype), mean, one, False, 0.0, 0.0
    )[0]


def sums(dx: Tensor, x: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel, the sums of dx and of dx x^, in one pass over both."""
    _, dot, total = aten.native_batch_norm_backward(
        dx, x, inverse, None, None, mean, inverse, True, 0.0, [False, True, True]
    )
    return total, dot


def push_batch(
    x: Tensor, w: Tensor | None, mean: Tensor, inverse: Tensor, dx: Tensor | None, dw: Tensor | None, db: Tensor | None
) -> Tensor:
    """The tangent under batch statistics.

    Args:
        x: [N, C, *].
        w: [C] or None for 1.
        mean: [C].
        inverse: [C], r.
        dx: [K, N, C, *] or None.
        dw: [K, C] or None.
        db: [K, C] or None.
    """
    if dx is None:
        k = next(v.shape[0] for v in (dw, db) if v is not None)
        one = [
            channelwise(x, mean, None if dw is None else dw[i] * inverse, None if db is None else db[i])
            for i in range(k)
        ]
        return one[0].unsqueeze(0) if k == 1 else torch.stack(one)
    gain = inverse if w is None else w * inverse
    if dw is None and db is None and dx.shape[0] == 1:  # J is symmetric: the fused backward is J dx
        args = (None, None, mean, inverse, True, 0.0, [True, False, False])
        return aten.native_batch_norm_backward(dx[0], x, w, *args)[0].unsqueeze(0)
    m = x.numel() // x.shape[1]
    dy = torch.empty_like(dx) if dx.shape[0] > 1 else None
    scale = beside(gain, x)
    for i, v in enumerate(dx):
        total, dot = sums(v, x, mean, inverse)
        c = dot.mul_(gain).div_(-m)
        d = total.mul_(gain).div_(-m)
        if dw is not None:
            c += dw[i]
        if db is not None:
            d += db[i]
        rest = channelwise(x, mean, c.mul_(inverse), d)
        if dy is None:
            return rest.addcmul_(v, scale).unsqueeze(0)
        torch.addcmul(rest, v, scale, out=dy[i])
    assert dy is not None
    return dy


def push_constant(
    x: Tensor, w: Tensor | None, mean: Tensor, inverse: Tensor, dx: Tensor | None, dw: Tensor | None, db: Tensor | None
) -> Tensor:
    """The tangent under constant statistics; arguments as for `push_batch`."""
    dy = None if dx is None else dx * beside(inverse if w is None else w * inverse, x)
    if dw is not None:
        change = push_batch(x, w, mean, inverse, None, dw, db)
        return change if dy is None else dy.add_(change)
    if db is not None:
        shift = db.to(x.dtype).reshape(db.shape[0], 1, -1, *(1,) * (x.ndim - 2))
        return shift.expand(-1, *x.shape).clone() if dy is None else dy.add_(shift)
    assert dy is not None
    return dy


@rule(F.batch_norm)
def batch_norm(
    input: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    x, w, b = primal(input), primal(weight), primal(bias)
    if x.ndim < 2:
        return NotImplemented
    running_mean, running_var = primal(running_mean), primal(running_var)  # constants in reverse mode as well
    dx, dw, db = tangent(input), tangent(weight), tangent(bias)
    if not training or x.numel() == x.shape[1]:  # stock refuses to train on one value a channel
        y = F.batch_norm(x, running_mean, running_var, w, b, training, momentum, eps)
        assert running_mean is not None and running_var is not None
        return y, push_constant(x, w, running_mean, (running_var + eps).rsqrt_(), dx, dw, db)
    y, mean, inverse = aten.native_batch_norm(x, w, b, running_mean, running_var, True, momentum, eps)
    return y, push_batch(x, w, mean, inverse, dx, dw, db)
