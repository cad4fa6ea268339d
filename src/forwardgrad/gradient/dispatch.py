"""What torch's operations do to a factored gradient: a few keep the form, the rest run on dense tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from forwardgrad.gradient.factored import FactoredGradient, Inside
from forwardgrad.gradient.factors import Factors

aten = torch.ops.aten


def run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Tries the rule for `func`; what has none, or whose rule declines, runs on dense stand-ins.

    Args:
        func: the ATen operation.
        args: its arguments, some of them factored gradients.
        kwargs: its keyword arguments.
    """
    rule = _RULES.get(func)
    result = rule(func, *args, **kwargs) if rule is not None else NotImplemented
    if result is not NotImplemented:
        return result
    each = func._schema.name.startswith(("aten::_foreach_", "aten::_fused_"))
    return (_one_by_one if each else _densely)(func, args, kwargs)


def _densely(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Runs `func`: on throw-away dense tensors for what it reads, on the inside for what it aliases."""
    wrappers: dict[int, FactoredGradient] = {}
    temporary: dict[int, Tensor] = {}

    def stand_in(grad: FactoredGradient, aliased: bool) -> Tensor:
        if aliased:
            grad.inside.content = dense = grad.densify()
            wrappers[id(dense)] = grad
            return dense
        if id(grad) not in temporary:
            temporary[id(grad)] = grad.densify()
        return temporary[id(grad)]

    def convert(argument: Any, value: Any) -> Any:
        aliased = argument.alias_info is not None
        return tree_map_only(FactoredGradient, lambda grad: stand_in(grad, aliased), value)

    named = {argument.name: argument for argument in func._schema.arguments}
    args = [convert(argument, value) for argument, value in zip(named.values(), args, strict=False)]
    kwargs = {name: convert(named[name], value) for name, value in kwargs.items()}
    # An in-place operation returns its first argument: the caller gets back the wrapper it passed.
    return tree_map_only(Tensor, lambda made: wrappers.get(id(made), made), func(*args, **kwargs))


def _one_by_one(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Runs a foreach or fused operation tensor by tensor, so that one dense gradient at a time is alive."""
    given = zip(func._schema.arguments, args, strict=False)
    if any(argument.name == "scalars" and isinstance(value, Tensor) for argument, value in given):
        return _densely(func, args, kwargs)  # one tensor holds the scalars of all, and cannot be cut
    single = _SINGLE.get(func)

    def part(value: Any, i: int) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        return value[i] if single else value[i : i + 1]

    results = []
    for i in range(len(args[0])):
        own = [part(value, i) for value in args]
        named = {name: part(value, i) for name, value in kwargs.items()}
        if single:
            results.append(single(*own, **named))
        else:
            results.extend(_densely(func, own, named) or [])
    return results if func._schema.returns else None


def _factors(value: Any) -> Factors | None:
    return value.factors if isinstance(value, FactoredGradient) else None


def _hold(func: Any, grad: FactoredGradient, factors: Factors) -> FactoredGradient:
    """A new gradient made of `factors`; or, where `func` works in place, `grad` itself holding them now."""
    if not func._schema.is_mutable:
        return grad.around(Inside(factors), grad.shape, factors.left)
    grad.inside.content = factors
    return grad


def _alias(func: Any, grad: FactoredGradient) -> Any:
    return grad.around(grad.inside, grad.shape, grad)


def _clone(func: Any, grad: FactoredGradient, *, memory_format: Any = None) -> Any:
    return _hold(func, grad, grad.factors) if grad.factors else NotImplemented


def _cast(func: Any, grad: FactoredGradient, *, dtype: Any = None, device: Any = None, **_: Any) -> Any:
    dtype = dtype or grad.dtype
    if grad.factors is None or not dtype.is_floating_point:
        return NotImplemented
    return _hold(func, grad, grad.factors.cast(dtype, device or grad.device))


def _blank(func: Any, grad: FactoredGradient, *args: Any, **kwargs: Any) -> Any:
    """zeros_like and its kin read shape, dtype and device: an expanded scalar has all three."""
    return func(torch.empty((), dtype=grad.dtype, device=grad.device).expand(grad.shape), *args, **kwargs)


def _scale(func: Any, grad: Any, factor: Any = -1) -> Any:
    """mul, div and neg by a number or a scalar tensor, in place or not."""
    if func is aten.mul.Tensor and not isinstance(grad, FactoredGradient):
        grad, factor = factor, grad
    factors = _factors(grad)
    scalar = type(factor) is Tensor and factor.dim() == 0 and not factor.is_complex()
    if factors is None or not (scalar or isinstance(factor, (int, float))):
        return NotImplemented
    divide = func.overloadpacket in (aten.div, aten.div_)
    weights = torch.div(factors.weights, factor) if divide else torch.mul(factors.weights, factor)
    return _hold(func, grad, factors.scaled(weights))


def _zero_(func: Any, grad: FactoredGradient) -> Any:
    return _hold(func, grad, grad.factors.emptied()) if grad.factors else NotImplemented


def _copy_(func: Any, grad: Tensor, source: Tensor, non_blocking: bool = False) -> Any:
    factors = _factors(source)
    if factors is None or not isinstance(grad, FactoredGradient) or grad.shape != source.shape:
        return NotImplemented
    return _hold(func, grad, factors.cast(grad.dtype, grad.device))


def _norm(
    func: Any, grad: FactoredGradient, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Any:
    if grad.factors is None or ord != 2 or dim is not None or keepdim:
        return NotImplemented
    return grad.factors.norm().to(dtype or grad.dtype)


def _foreach_norm(func: Any, grads: Sequence[Tensor], ord: Any = 2, dtype: Any = None) -> Any:
    return [torch.linalg.vector_norm(grad, ord, dtype=dtype) for grad in grads]


def _unscale_(func: Any, grads: Sequence[Tensor], found_inf: Tensor, inv_scale: Tensor) -> Any:
    """GradScaler: unscales, and reports what is not finite, which any factor shows in the norm."""
    plain = [grad for grad in grads if _factors(grad) is None]
    if plain:
        _densely(func, (plain, found_inf, inv_scale), {})
    for grad in grads:
        if isinstance(grad, FactoredGradient) and grad.factors:
            factors = grad.factors
            found_inf.copy_(torch.maximum(found_inf, (~factors.norm().isfinite()).to(found_inf)))
            grad.inside.content = factors.scaled(factors.weights * inv_scale)


def _add(func: Any, total: Any, other: Any, *, alpha: Any = 1) -> Any:
    """add, sub and their in-place twins, of dense and factored in any order."""
    inplace = func._schema.is_mutable
    scale = -alpha if func.overloadpacket in (aten.sub, aten.sub_) else alpha
    if not isinstance(other, Tensor) or total.shape != other.shape or total.dtype != other.dtype:
        return NotImplemented
    mine, its = _factors(total), _factors(other)
    # Past some rank the entries take less room than the factors.
    if mine and its and mine.size + its.size <= total.numel():
        return _hold(func, total, mine.joined(its, scale))
    if its:
        dense = total.densify() if isinstance(total, FactoredGradient) else total
        if inplace and mine:
            total.inside.content = dense
        elif not inplace and not mine:
            dense = dense.clone()
        poured = its.pour(dense, alpha=scale, beta=1)
    elif mine and not inplace:
        dense = other * scale
        poured = mine.pour(dense, alpha=1, beta=1)
    else:
        return NotImplemented
    return (total if inplace else dense) if poured else NotImplemented


def _lerp_(func: Any, total: Any, end: Any, weight: float) -> Any:
    """total + weight (end - total), the running mean of Adam and Muon, with no dense `end`."""
    its = _factors(end)
    if its is None or total.shape != end.shape or total.dtype != end.dtype:
        return NotImplemented
    if isinstance(total, FactoredGradient):
        return NotImplemented
    return total if its.pour(total, alpha=weight, beta=1 - weight) else NotImplemented


_RULES: dict[Any, Callable[..., Any]] = {
    aten.detach.default: _alias,
    aten.alias.default: _alias,
    aten.detach_.default: lambda func, grad: grad,
    aten.clone.default: _clone,
    aten._to_copy.default: _cast,
    aten.zero_.default: _zero_,
    aten.copy_.default: _copy_,
    aten.lerp_.Scalar: _lerp_,
    aten.linalg_vector_norm.default: _norm,
    aten.norm.Scalar: _norm,
    aten._foreach_norm.Scalar: _foreach_norm,
    aten._amp_foreach_non_finite_check_and_unscale_.default: _unscale_,
    **dict.fromkeys((aten.neg.default, aten.neg_.default), _scale),
    **dict.fromkeys((aten.mul.Tensor, aten.mul_.Tensor, aten.mul.Scalar, aten.mul_.Scalar), _scale),
    **dict.fromkeys((aten.div.Tensor, aten.div_.Tensor, aten.div.Scalar, aten.div_.Scalar), _scale),
    **dict.fromkeys((aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.sub_.Tensor), _add),
    **dict.fromkeys((aten.zeros_like.default, aten.ones_like.default, aten.empty_like.default), _blank),
    **dict.fromkeys((aten.full_like.default, aten.new_zeros.default, aten.new_empty.default), _blank),
}

# Foreach operations, and the operation with a rule that each of them repeats.
_SINGLE: dict[Any, Any] = {
    aten._foreach_neg.default: aten.neg.default,
    aten._foreach_neg_.default: aten.neg_.default,
    aten._foreach_mul.Scalar: aten.mul.Scalar,
    aten._foreach_mul.Tensor: aten.mul.Tensor,
    aten._foreach_mul_.Scalar: aten.mul_.Scalar,
    aten._foreach_mul_.ScalarList: aten.mul_.Scalar,
    aten._foreach_mul_.Tensor: aten.mul_.Tensor,
    aten._foreach_div_.Scalar: aten.div_.Scalar,
    aten._foreach_div_.ScalarList: aten.div_.Scalar,
    aten._foreach_div_.Tensor: aten.div_.Tensor,
    aten._foreach_add.List: aten.add.Tensor,
    aten._foreach_add_.List: aten.add_.Tensor,
    aten._foreach_sub.List: aten.sub.Tensor,
    aten._foreach_sub_.List: aten.sub_.Tensor,
    aten._foreach_zero_.default: aten.zero_.default,
    aten._foreach_lerp_.Scalar: aten.lerp_.Scalar,
}
