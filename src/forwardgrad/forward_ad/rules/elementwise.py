"""Elementwise functions: the derivative is computed once and shared by the K tangents, dy_k = f'(x) dx_k.

Where PyTorch has a fused kernel for g f'(x) (its backward), one tangent goes through it in one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.dual import Dual, aligned, primal, tangent, write_through
from forwardgrad.forward_ad.registry import RULES, rule

Pair = tuple[Tensor, Tensor | None]
aten = torch.ops.aten


def scaled(dx: Tensor, y: Tensor, times: Callable[[Tensor], Tensor]) -> Tensor:
    """f'(x) dx_k for all k, from times(g) = f'(x) g: fused for one tangent, f' shared for several."""
    if dx.shape[0] == 1:
        return times(dx[0]).unsqueeze(0)
    return dx * times(torch.ones_like(y))


def unary(f: Callable, times: Callable[[Tensor, Tensor, Tensor], Tensor], *aliases: Any) -> None:
    """Registers y = f(x) with times(g, x, y) = f'(x) g."""

    def pushed(x: Dual) -> Any:
        if x.primal.is_complex():  # there `times` would conjugate, as backward kernels do
            return NotImplemented
        y = f(x.primal)
        return y, scaled(x.dense(), y, lambda g: times(g, x.primal, y))

    for name in (f, *aliases):
        RULES[name] = pushed


def _names(name: str) -> tuple[Any, ...]:
    return tuple(getattr(space, name) for space in (Tensor, F) if hasattr(space, name))


unary(torch.exp, lambda g, x, y: g * y, *_names("exp"))
unary(torch.log, lambda g, x, y: g / x, *_names("log"))
unary(torch.sqrt, lambda g, x, y: g * (0.5 / y), *_names("sqrt"))
unary(torch.rsqrt, lambda g, x, y: g * (-0.5 * y / x), *_names("rsqrt"))
unary(torch.sin, lambda g, x, y: g * x.cos(), *_names("sin"))
unary(torch.cos, lambda g, x, y: g * x.sin().neg_(), *_names("cos"))
unary(torch.tanh, lambda g, x, y: aten.tanh_backward(g, y), *_names("tanh"))
unary(torch.sigmoid, lambda g, x, y: aten.sigmoid_backward(g, y), *_names("sigmoid"))
unary(torch.abs, lambda g, x, y: g * x.sgn(), *_names("abs"), Tensor.__abs__)
unary(torch.square, lambda g, x, y: g * (2 * x), *_names("square"))
unary(torch.reciprocal, lambda g, x, y: g * (-y * y), *_names("reciprocal"))


@rule(torch.neg, Tensor.neg, Tensor.__neg__, torch.negative, Tensor.negative)
def neg(x: Dual) -> Pair:
    return -x.primal, -x.dense()


@rule(torch.sgn, Tensor.sgn)
def sgn(input: Dual) -> Any:
    return NotImplemented if input.primal.is_complex() else input.primal.sgn()  # x / |x|, which turns with x


@rule(torch.relu, Tensor.relu)
def relu(input: Dual) -> Any:
    y = torch.relu(input.primal)
    return y, aten.threshold_backward.default(input.dense(), y, 0)  # one pass, however many tangents


@rule(F.relu)
def relu_by_name(input: Dual, inplace: bool = False) -> Any:
    return input.relu_() if inplace else relu(input)


@rule(F.gelu)
def gelu(input: Dual, approximate: str = "none") -> Pair:
    x = input.primal
    y = F.gelu(x, approximate=approximate)
    return y, scaled(input.dense(), y, lambda g: aten.gelu_backward(g, x, approximate=approximate))


@rule(F.silu)
def silu(input: Dual, inplace: bool = False) -> Any:
    x = input.primal
    y = F.silu(x)
    dy = scaled(input.dense(), y, lambda g: aten.silu_backward(g, x))
    return write_through(input, y, dy) if inplace else (y, dy)


@rule(F.leaky_relu)
def leaky_relu(input: Dual, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    x = input.primal
    y = F.leaky_relu(x, negative_slope)
    dy = scaled(input.dense(), y, lambda g: aten.leaky_relu_backward(g, x, negative_slope, False))
    return write_through(input, y, dy) if inplace else (y, dy)


@rule(F.softplus)
def softplus(input: Dual, beta: float = 1, threshold: float = 20) -> Pair:
    x = input.primal
    y = F.softplus(x, beta, threshold)
    return y, scaled(input.dense(), y, lambda g: aten.softplus_backward(g, x, beta, threshold))


@rule(torch.clamp, Tensor.clamp)
def clamp(input: Dual, min: Any = None, max: Any = None) -> Any:
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        return NotImplemented
    x = input.primal
    inside = torch.ones_like(x, dtype=torch.bool)
    if min is not None:
        inside &= x >= min
    if max is not None:
        inside &= x <= max
    return x.clamp(min, max), input.dense() * inside


def spread(dx: Tensor, y: Tensor) -> Tensor:
    """A fresh [K, *y.shape] from a tangent that may broadcast: a rule never hands on its input's own memory."""
    return aligned(dx, y.ndim).expand(dx.shape[0], *y.shape).to(y.dtype, copy=True)


def sum_of(y: Tensor, dx: Tensor | None, dz: Tensor | None, sign: float = 1) -> Tensor:
    """dx_k + sign dz_k broadcast to y's shape."""
    if dz is None:
        return spread(dx, y)
    if dx is None:
        dy = spread(dz, y)
        return dy if sign == 1 else dy.mul_(sign)
    return torch.add(aligned(dx, y.ndim), aligned(dz, y.ndim), alpha=sign)


@rule(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
def add(input: Any, other: Any, *, alpha: float = 1) -> Pair:
    y = torch.add(primal(input), primal(other), alpha=alpha)
    return y, sum_of(y, tangent(input), tangent(other), alpha)


@rule(torch.sub, Tensor.sub, Tensor.__sub__, torch.subtract)
def sub(input: Any, other: Any, *, alpha: float = 1) -> Pair:
    y = torch.sub(primal(input), primal(other), alpha=alpha)
    return y, sum_of(y, tangent(input), tangent(other), -alpha)


@rule(Tensor.__rsub__, torch.rsub)
def rsub(input: Any, other: Any, *, alpha: float = 1) -> Pair:
    y = torch.rsub(primal(input), primal(other), alpha=alpha)
    dx, dz = tangent(input), tangent(other)
    return y, sum_of(y, dz, None if dx is None else dx * alpha, -1)


@rule(torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.multiply)
def mul(input: Any, other: Any) -> Pair:
    x, z = primal(input), primal(other)
    y = torch.mul(x, z)
    dx, dz = tangent(input), tangent(other)
    if dz is None:
        return y, aligned(dx, y.ndim) * z
    dy = aligned(dz, y.ndim) * x
    if dx is None:
        return y, dy
    dx = aligned(dx, y.ndim)
    if dy.shape[1:] == y.shape and isinstance(z, Tensor) and dx.dtype == dy.dtype == z.dtype:
        return y, dy.addcmul_(dx, z)
    return y, dy + dx * z


@rule(torch.div, Tensor.div, Tensor.__truediv__, torch.divide, torch.true_divide)
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        return torch.div(primal(input), primal(other), rounding_mode=rounding_mode)
    x, z = primal(input), primal(other)
    y = torch.div(x, z)
    dx, dz = tangent(input), tangent(other)
    if dz is None:
        return y, aligned(dx, y.ndim) / z
    dy = aligned(dz, y.ndim) * (-y / z)
    return y, dy if dx is None else dy + aligned(dx, y.ndim) / z


@rule(Tensor.__rtruediv__, Tensor.__rdiv__)
def rdiv(input: Dual, other: Any) -> Any:
    return div(other if isinstance(other, Tensor) else torch.as_tensor(other, dtype=input.primal.dtype), input)


@rule(torch.pow, Tensor.pow, Tensor.__pow__)
def pow(input: Any, exponent: Any) -> Any:
    if isinstance(exponent, Tensor | complex) or not isinstance(input, Dual):
        return NotImplemented
    x, dx = input.primal, input.dense()
    y = torch.pow(x, exponent)
    if exponent == 0:
        return y, torch.zeros_like(dx)
    power = x if exponent == 2 else torch.pow(x, exponent - 1)
    return y, torch.addcmul(dx.new_zeros(()), power, dx, value=exponent)  # both products in one pass


@rule(torch.where, Tensor.where)
def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    if input is None:
        return NotImplemented
    if isinstance(condition, Dual) or (isinstance(condition, Tensor) and condition.dtype != torch.bool):
        condition, input = input, condition
    y = torch.where(condition, primal(input), primal(other))
    dx, dz = tangent(input), tangent(other)
    left = aligned(dx, y.ndim) if dx is not None else torch.zeros((), dtype=y.dtype, device=y.device)
    right = aligned(dz, y.ndim) if dz is not None else torch.zeros((), dtype=y.dtype, device=y.device)
    dy = torch.where(condition, left, right)
    return y, dy if dy.shape[1:] == y.shape else spread(dy, y)


@rule(torch.masked_fill, Tensor.masked_fill)
def masked_fill(input: Any, mask: Tensor, value: Any) -> Any:
    if isinstance(value, Dual):
        return NotImplemented
    y = primal(input).masked_fill(mask, value)
    return y, aligned(tangent(input), y.ndim).masked_fill(mask, 0)


@rule(torch.addcmul, Tensor.addcmul)
def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Pair:
    y = torch.addcmul(primal(input), primal(tensor1), primal(tensor2), value=value)
    _, product = mul(tensor1, tensor2) if isinstance(tensor1, Dual) or isinstance(tensor2, Dual) else (None, None)
    dx = tangent(input)
    if product is None:
        return y, spread(dx, y)
    product = aligned(product, y.ndim) * value
    return y, spread(product, y) if dx is None else spread(aligned(dx, y.ndim) + product, y)
