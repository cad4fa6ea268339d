"""The gradient of an inner loss as one operation, through which tangents are pushed by a rule of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from forwardgrad.errors import InputError, UnsupportedError
from forwardgrad.forward_ad.dual import Dual, is_differentiable, provenance, zeros_for
from forwardgrad.forward_ad.mode import Pushing


def inner_gradient(loss: Callable[..., Tensor]) -> Callable[..., Any]:
    r"""The gradient of a loss by its first argument, inside what is itself differentiated: a step of training, say.

    .. math:: g = \nabla_\theta L(\theta, a), \qquad
        \dot g_k = \nabla_\theta \big( \nabla_\theta L \cdot \dot\theta_k + \nabla_a L \cdot \dot a_k \big)

    A push asks for :math:`\dot g_k`, the Hessian times the tangents; since a Hessian is symmetric it is a gradient
    again. The loss is evaluated once, its gradient is differentiated K times over a tape of this one loss, and the tape
    is gone before the next operation. Where reverse mode goes through (``fg.Backprop``), the gradient is on its tape.

    Args:
        loss: ``loss(theta, *args)`` returns []; everything that hyperparameters move must be among its arguments, none
            captured. It needs second derivatives in reverse mode, which fused attention lacks.

    Returns:
        ``gradient(theta, *args)``, of the structure of `theta`: a tensor, or nested tuples, lists and dicts of them.

    Raises:
        InputError: when called, a loss that is not one number, or a theta that holds something else than real tensors.
        UnsupportedError: when called, a loss that captures a tensor that is pushed forward.

    References:
        | Fast Exact Multiplication by the Hessian (Pearlmutter, 1994), for the product with one vector

    Note:
        Pearlmutter goes forward over reverse, as ``torch.func.jvp`` of ``torch.func.grad`` does. Reverse over reverse
        has the same products without materialised zeros; docs/design.md has the measurement that decided.
    """

    def gradient(theta: Any, *args: Any) -> Any:
        leaves, spec = tree_flatten((theta, args))
        num_theta = len(tree_flatten(theta)[0])
        _check(leaves[:num_theta])
        mode = _get_current_function_mode()
        if not isinstance(mode, Pushing):
            grads = _tracked(loss, leaves, spec, num_theta)
        elif torch.is_grad_enabled():
            leaves = [mode.shadowed(x) if isinstance(x, Tensor) else x for x in leaves]
            grads = _pushed(loss, leaves, spec, num_theta)
        else:  # the caller's own no_grad stops tangents
            with torch._C.DisableTorchFunction():
                grads = _tracked(loss, [x.primal if type(x) is Dual else x for x in leaves], spec, num_theta)
        return tree_unflatten(grads, tree_flatten(theta)[1])

    return gradient


def _tracked(loss: Callable[..., Tensor], leaves: Sequence[Any], spec: TreeSpec, num_theta: int) -> list[Tensor]:
    """The gradient alone; on the tape where something that it depends on is."""
    kept = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in leaves)
    with torch.enable_grad():
        # Another node, so that an argument made from theta counts as an argument of its own.
        theta = [x.view_as(x) if kept and x.requires_grad else x.detach().requires_grad_() for x in leaves[:num_theta]]
        value = _evaluated(loss, [*theta, *leaves[num_theta:]], spec)
        grads = torch.autograd.grad(value, theta, create_graph=kept, allow_unused=True)
        return _whole(grads, theta)


def _pushed(loss: Callable[..., Tensor], leaves: Sequence[Any], spec: TreeSpec, num_theta: int) -> list[Tensor]:
    """The gradient and its K tangents: reverse over reverse, the second time for K directions at once."""
    moving = [i for i, x in enumerate(leaves) if type(x) is Dual]
    tangents = [leaves[i].dense() for i in moving]
    plain = [x.primal if type(x) is Dual else x for x in leaves]
    with torch._C.DisableTorchFunction(), torch.enable_grad():
        wanted = [*range(num_theta), *(i for i in moving if i >= num_theta)]
        points = {i: plain[i].detach().requires_grad_() for i in wanted}
        value = _evaluated(loss, [points.get(i, x) for i, x in enumerate(plain)], spec)
        found = torch.autograd.grad(value, list(points.values()), create_graph=bool(moving), allow_unused=True)
        first = _whole(found[:num_theta], list(points.values())[:num_theta])
        if not moving:
            return first
        by_leaf = dict(zip(wanted, [*first, *found[num_theta:]], strict=True))
        # What is constant in everything that moves has no node, and no derivative.
        pairs = [(g, dx) for i, dx in zip(moving, tangents, strict=True) if (g := by_leaf[i]) is not None]
        pairs = [(g, dx) for g, dx in pairs if g.requires_grad]
        second = _directions(pairs, [points[i] for i in range(num_theta)])
    reach, trace = provenance([leaves[i] for i in moving], {})
    return [
        Dual(g.detach(), zeros_for(g.detach(), trace.num_tangents) if dg is None else dg.contiguous(), reach, trace)
        for g, dg in zip(first, second, strict=True)
    ]


def _directions(pairs: Sequence[tuple[Tensor, Tensor]], theta: list[Tensor]) -> Sequence[Tensor | None]:
    """The gradient by theta of ``sum_i <g_i, dx_i[k]>`` for every k, [K, *s] each; None where there is none."""
    if not pairs:
        return [None] * len(theta)
    outputs, upstream = [g for g, _ in pairs], [dx for _, dx in pairs]
    if upstream[0].shape[0] == 1:  # vmap would only add its own overhead
        single = torch.autograd.grad(outputs, theta, [dx[0] for dx in upstream], allow_unused=True)
        return [None if dg is None else dg[None] for dg in single]
    return torch.autograd.grad(outputs, theta, upstream, allow_unused=True, is_grads_batched=True)


def _evaluated(loss: Callable[..., Tensor], leaves: Sequence[Any], spec: TreeSpec) -> Tensor:
    theta, args = tree_unflatten(leaves, spec)
    try:
        value = loss(theta, *args)
    except UnsupportedError as error:
        raise UnsupportedError(
            "an inner gradient needs everything that moves among the arguments of its loss",
            "a pushed-forward tensor that the loss captures",
            "give it as an argument: fg.inner_gradient(loss)(theta, hyper, batch)",
            path=error.path,
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError("an inner loss needs to be a tensor with one number", found, "return its mean or its sum")
    if not value.requires_grad:
        raise _constant()
    return value.reshape(())


def _whole(grads: Sequence[Tensor | None], theta: Sequence[Tensor]) -> list[Tensor]:
    """The gradients, with zeros for the parts of theta that the loss does not read.

    Raises:
        InputError: it reads none of them.
    """
    if all(g is None for g in grads):
        raise _constant()
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, theta, strict=True)]


def _constant() -> InputError:
    return InputError(
        "an inner loss needs to depend on its first argument",
        "a loss from which no gradient leads back to it",
        "compute it from theta by PyTorch operations",
    )


def _check(theta: Iterable[Any]) -> None:
    for x in theta:
        if not is_differentiable(x):
            found = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
            raise InputError("an inner gradient needs floating point tensors in theta", found, "keep the rest apart")


__all__ = ["inner_gradient"]
