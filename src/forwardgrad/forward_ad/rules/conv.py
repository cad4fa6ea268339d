r"""Convolutions: y = w * x + c, linear in kernel and input.

A kernel tangent that is rank-one, V_k = a_k (x) b_k with a_k over output channels, needs one output channel only,

    V_k * x = a_k s_k,    s_k = b_k * x,

and the K one-channel kernels b_k go through one convolution. Dense kernel tangents are stacked over output channels,
input tangents over the batch. A transposed convolution has its a_k over *input* channels: the input is contracted
with a_k first, and what is left is one convolution with K groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from forwardgrad.forward_ad.dual import primal, structure, tangent
from forwardgrad.forward_ad.registry import rule
from forwardgrad.tangents.kinds import Kind, RankOne

Pair = tuple[Tensor, Tensor | None]


def over_batch(f: Callable[[Tensor], Tensor], dx: Tensor) -> Tensor:
    """f applied to K tangents [K, N, *s] as to one batch of K N."""
    return f(dx.flatten(0, 1)).unflatten(0, dx.shape[:2])


def per_channel(v: Tensor, spatial: int) -> Tensor:
    """[K, C] made ready to broadcast against [K, N, C, *spatial]."""
    return v.reshape(v.shape[0], 1, v.shape[1], *(1,) * spatial)


def thin(conv: Callable[..., Tensor], x: Tensor, b: Tensor) -> Tensor:
    """b_k * x for K kernels of one output channel, [N, K, *].

    A convolution is slow with few output channels. Where K kernels have few taps altogether, channels are contracted
    first, one product for every tap; what is left is to shift and add, a convolution with unit kernels.

    Args:
        conv: conv(x, kernel, groups), without bias.
        x: [N, C, *].
        b: [K, C, *].
    """
    k, taps = b.shape[0], b[0, 0].numel()
    if taps == 1 or 2 * k * taps > x.shape[1]:
        return conv(x, b, 1)
    products = torch.matmul(b.movedim(1, -1).reshape(k * taps, -1), x.flatten(2))
    unit = torch.eye(taps, dtype=products.dtype, device=x.device).view(1, taps, *b.shape[2:])
    s = conv(products.view(-1, taps, *x.shape[2:]), unit, 1)
    return s.view(x.shape[0], k, *s.shape[2:])


def push_kernel(
    conv: Callable[..., Tensor], x: Tensor, dw: Kind | Tensor, groups: int, dy: Tensor | None, y: Tensor
) -> Tensor:
    """dy_k + V_k * x for a kernel tangent V in any form.

    Args:
        conv: conv(x, kernel, groups), without bias.
        x: [N, C, *].
        dw: K tangents of the kernel [co, C / groups, *].
        groups: of the convolution.
        dy: [K, N, co, *], written in place where it is there.
        y: [N, co, *], which gives shape and dtype.
    """
    n, co, space = y.shape[0], y.shape[1], y.shape[2:]
    if groups > 1 and groups == x.shape[1]:
        return push_depthwise(conv, x, dw, groups, dy, y)
    if isinstance(dw, RankOne):
        a, b = dw.a.to(y.dtype), dw.b.to(x.dtype)
        k = a.shape[0]
        # Every group sees the same b_k: the groups are samples of a larger batch.
        s = thin(conv, x.reshape(n * groups, -1, *x.shape[2:]), b).view(n, groups, k, *space)
        s = s.permute(2, 0, 1, *range(3, s.ndim)).unsqueeze(3)  # [K, N, G, 1, *]
        a = a.view(k, 1, groups, co // groups, *(1,) * len(space))
        if dy is None:
            return (a * s).view(k, *y.shape)
        dy.unflatten(2, (groups, co // groups)).addcmul_(a, s)
        return dy
    v = dw if isinstance(dw, Tensor) else dw.dense()
    k = v.shape[0]
    # Each group's output channels must stay together: [G, K, co / G].
    v = v.to(x.dtype).unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 2)
    term = conv(x, v, groups).view(n, groups, k, co // groups, *space)
    term = term.permute(2, 0, 1, *range(3, term.ndim))
    if dy is None:
        return term.reshape(k, *y.shape).contiguous() if k > 1 else term.reshape(k, *y.shape)
    dy.unflatten(2, (groups, co // groups)).add_(term)
    return dy


def push_depthwise(
    conv: Callable[..., Tensor], x: Tensor, dw: Kind | Tensor, groups: int, dy: Tensor | None, y: Tensor
) -> Tensor:
    """The same for one input channel a group: kernels are tiny, and depthwise convolutions fastest one by one."""
    if isinstance(dw, RankOne):
        v = dw.a.view(*dw.a.shape, *(1,) * (x.ndim - 1)) * dw.b.unsqueeze(1)
    else:
        v = dw if isinstance(dw, Tensor) else dw.dense()
    if dy is None:
        dy = y.new_zeros((v.shape[0], *y.shape))
    for kernel, term in zip(v.to(x.dtype), dy, strict=True):
        term.add_(conv(x, kernel, groups))
    return dy


def push_transposed_kernel(
    conv: Callable[..., Tensor], x: Tensor, dw: Kind | Tensor, groups: int, dy: Tensor | None, y: Tensor
) -> Tensor:
    """The same for a transposed convolution, whose kernel is [C, co / groups, *]."""
    n, co, space = y.shape[0], y.shape[1], y.shape[2:]
    if isinstance(dw, RankOne):
        a, b = dw.a.to(x.dtype), dw.b.to(x.dtype)
        k = a.shape[0]
        u = torch.einsum("ngis,kgi->ngks", x.reshape(n, groups, -1, x[0, 0].numel()), a.view(k, groups, -1))
        u = u.reshape(n, groups * k, *x.shape[2:])
        term = conv(u, b.repeat(groups, *(1,) * (b.ndim - 1)), groups * k)
    else:
        v = (dw if isinstance(dw, Tensor) else dw.dense()).to(x.dtype)
        k = v.shape[0]
        term = conv(x, v.movedim(0, 1).flatten(1, 2), groups)
    term = term.view(n, groups, k, co // groups, *space)
    term = term.permute(2, 0, 1, *range(3, term.ndim)).reshape(k, *y.shape)
    return term if dy is None else dy.add_(term)


def push_convolution(
    f: Callable[..., Tensor],
    push: Callable[..., Tensor],
    input: Any,
    weight: Any,
    bias: Any,
    groups: int,
) -> Pair:
    """One convolution f(x, w, bias, groups) with the tangents of all three.

    Args:
        f: the convolution with its other options bound.
        push: `push_kernel` or `push_transposed_kernel`.
        input: [N, C, *] or [C, *].
        weight: the kernel.
        bias: [co] or None.
        groups: of the convolution.
    """
    x, w, c = primal(input), primal(weight), primal(bias)
    dx, dw, db = tangent(input), structure(weight), tangent(bias)
    y = f(x, w, c, groups)
    single = x.ndim == w.ndim - 1
    samples, out = (x.unsqueeze(0), y.unsqueeze(0)) if single else (x, y)
    dy = None
    if dx is not None:
        dy = over_batch(lambda z: f(z, w, None, groups), dx.unsqueeze(1) if single else dx)
    if dw is not None:
        dy = push(lambda z, kernel, g: f(z, kernel, None, g), samples, dw, groups, dy, out)
    if db is not None:
        db = per_channel(db.to(y.dtype), w.ndim - 2)
        dy = db.expand(-1, *out.shape).clone() if dy is None else dy.add_(db)
    return y, dy.squeeze(1) if single and dy is not None else dy


def _plain(stock: Callable[..., Tensor]) -> None:
    @rule(stock)
    def conv(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Pair:
        def f(x: Tensor, w: Tensor, c: Tensor | None, g: int) -> Tensor:
            return stock(x, w, c, stride, padding, dilation, g)

        return push_convolution(f, push_kernel, input, weight, bias, groups)


def _transposed(stock: Callable[..., Tensor]) -> None:
    @rule(stock)
    def conv_transpose(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Pair:
        def f(x: Tensor, w: Tensor, c: Tensor | None, g: int) -> Tensor:
            return stock(x, w, c, stride, padding, output_padding, g, dilation)

        return push_convolution(f, push_transposed_kernel, input, weight, bias, groups)


_plain(torch.conv1d)
_plain(torch.conv2d)
_plain(torch.conv3d)
_transposed(torch.conv_transpose1d)
_transposed(torch.conv_transpose2d)
_transposed(torch.conv_transpose3d)


@rule(torch.convolution)
def convolution(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Pair:
    def f(x: Tensor, w: Tensor, c: Tensor | None, g: int) -> Tensor:
        return torch.convolution(x, w, c, stride, padding, dilation, transposed, output_padding, g)

    return push_convolution(f, push_transposed_kernel if transposed else push_kernel, input, weight, bias, groups)
