r"""Losses: the derivative by the loss's input is formed once, a piece at a time, and contracted with all K tangents.

.. math:: dL_k = \langle e, dx_k \rangle, \qquad e = \partial L / \partial x

Cross-entropy, with c the weight that each class of each row receives (a one-hot row, smoothed, weighted):

.. math:: L = -\sum_{nc} c_{nc} \log p_{nc}, \qquad e_{nc} = p_{nc} \sum_j c_{nj} - c_{nc}

is evaluated row block by row block: neither the log-probabilities nor e ever exist for a whole batch and vocabulary.
Where dx_k comes out of a wide linear layer, it never exists either: see `forwardgrad.forward_ad.pending`.

The Python functions in front (`F.cross_entropy`, `F.mse_loss`, ...) are followed by their own body, which settles
legacy arguments, weights and broadcasting (see `forwardgrad.forward_ad.composite`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.autocast import widened
from forwardgrad.forward_ad.dual import Dual, in_dtype, primal, tangent
from forwardgrad.forward_ad.pending import Pending
from forwardgrad.forward_ad.registry import RULES, rule

Pair = tuple[Tensor, Tensor | None]
aten = torch.ops.aten
# PyTorch's own stubs take the code of the reduction for its name.
stock_nll_loss: Any = torch._C._nn.nll_loss_nd
stock_binary_cross_entropy: Any = torch._C._nn.binary_cross_entropy
NONE, MEAN, SUM = 0, 1, 2  # PyTorch's own codes of reduction
# Rows are taken until their log-probabilities fill this: they stay in a core's cache between their three uses.
BLOCK_BYTES = {"cpu": 1 << 20}
ACCELERATOR_BLOCK_BYTES = 64 << 20
ROWS_TOGETHER = 8  # blocks at a time where e is multiplied by a weight, which is read once for each
FEW = 1 << 14  # logits for which calling takes longer than computing, and two more tensors of their size are nothing


def contract(e: Tensor, dx: Tensor) -> Tensor:
    """<e, dx_k> for e [*s] and dx [K, *s], summed in float32 or wider: [K]."""
    return in_dtype(dx.reshape(dx.shape[0], -1), e.dtype) @ e.flatten()


@rule(torch._C._nn.cross_entropy_loss)
@widened
def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    reduction: int = MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    if not isinstance(input, Dual) or isinstance(weight, Dual) or not 0 <= label_smoothing <= 1:
        return NotImplemented
    if isinstance(target, Dual):
        return soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    z, held = input.primal, input.tangent
    factors = held.factors if isinstance(held, Pending) and z.ndim == 2 and reduction != NONE else None
    dz = input.dense() if factors is None else factors.dx  # whose rows are the rows of z
    wide = torch.promote_types(z.dtype, torch.float32)
    if z.ndim == 1:  # one sample
        z, dz, target = z[None], dz[:, None], target[None]
    classes, by_class = z.shape[1], target.shape == z.shape and target.dtype.is_floating_point
    if (not by_class and target.shape != (z.shape[0], *z.shape[2:])) or z.numel() == 0:
        return NotImplemented  # stock says what is wrong
    few = factors is None and z.ndim == 2 and z.numel() <= FEW
    if few and not by_class and not label_smoothing and reduction != NONE:
        return of_few(z, dz, target, weight, reduction, ignore_index, wide)
    rows: tuple[Tensor, ...]
    if by_class:
        judge, rows = partial(from_probabilities, weight=weight, smoothing=label_smoothing), (z, target)
        counted = torch.tensor(z.numel() // classes, dtype=wide, device=z.device)
    else:
        judge = partial(from_indices, weight=weight, smoothing=label_smoothing, ignore_index=ignore_index)
        valid = target != ignore_index
        shares = valid.to(wide) if weight is None else weight.to(wide)[target * valid].mul_(valid)
        counted, rows = shares.sum(), (z, target, shares, valid)
    losses: list[Tensor] = []
    slopes: list[Tensor] = []
    together = ROWS_TOGETHER if factors is not None and z.device.type == "cpu" else 1
    step, done = rows_in_block(z, wide) * together, 0
    for (logits, *labels), (moved,) in zip(blocks(rows, 0, step), blocks((dz,), 1, step), strict=True):
        loss, e = judge(torch.log_softmax(logits, 1, wide), *labels)
        if reduction == NONE:
            losses.append(loss)
            slopes.append(torch.stack([(d * e).sum(1) for d in moved]))
            continue
        losses.append(loss.sum())
        these, done = slice(done, done + len(logits)), done + len(logits)
        slopes.append(contract(e, moved) if factors is None else factors.contracted(e, these))
    if reduction == NONE:
        shape = () if input.ndim == 1 else (z.shape[0], *z.shape[2:])
        return torch.cat(losses).to(z.dtype).reshape(shape), torch.cat(slopes, 1).to(z.dtype).reshape(-1, *shape)
    y, dy = total(losses), total(slopes)
    if reduction == MEAN:
        y, dy = y / counted, dy / counted
    return in_dtype(y, z.dtype), in_dtype(dy, z.dtype)


def of_few(
    z: Tensor, dz: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, wide: torch.dtype
) -> Pair:
    """The loss of few logits by class indices, in as few calls as can be: e by PyTorch's backward kernels.

    Args:
        z: [N, C] logits.
        dz: [K, N, C].
        target: [N] classes.
        weight: [C] or None.
        reduction: MEAN or SUM.
        ignore_index: the target of rows that do not count.
        wide: what to compute in.
    """
    logp = torch.log_softmax(z, 1, wide)
    how = (target, None if weight is None else weight.to(wide), reduction, ignore_index)
    y, counted = aten.nll_loss_forward.default(logp, *how)
    e = aten.nll_loss_backward.default(torch.ones_like(y), logp, *how, counted)
    e = torch._log_softmax_backward_data(e, logp, 1, wide)
    return in_dtype(y, z.dtype), in_dtype(contract(e, dz), z.dtype)


def total(parts: list[Tensor]) -> Tensor:
    """The sum of what the blocks gave."""
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


@rule(F.cross_entropy)
def cross_entropy_by_name(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    code = {"none": NONE, "mean": MEAN, "sum": SUM}.get(reduction)
    if code is None or size_average is not None or reduce is not None:
        return NotImplemented  # its own body knows
    return cross_entropy(input, target, weight, code, ignore_index, label_smoothing)


def rows_in_block(z: Tensor, wide: torch.dtype) -> int:
    """How many rows of z [N, C, *] fill a block."""
    room = BLOCK_BYTES.get(z.device.type, ACCELERATOR_BLOCK_BYTES) // wide.itemsize
    return max(1, room * z.shape[0] // z.numel())


def blocks(tensors: tuple[Tensor, ...], dim: int, step: int) -> Iterable[tuple[Tensor, ...]]:
    """`step` rows at a time of tensors whose rows, along `dim`, belong together."""
    if tensors[0].shape[dim] <= step:
        return [tensors]
    return zip(*(x.split(step, dim) for x in tensors), strict=True)


def from_indices(
    logp: Tensor,
    target: Tensor,
    shares: Tensor,
    valid: Tensor,
    weight: Tensor | None,
    smoothing: float,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Row losses [n, *] and e [n, C, *] (in logp's memory) for class indices.

    Args:
        logp: [n, C, *] log-probabilities.
        target: [n, *] classes.
        shares: [n, *] the target class's weight, 0 where ignored.
        valid: [n, *] which rows count.
        weight: [C] or None.
        smoothing: the mass spread over all classes.
        ignore_index: the target of rows that do not count.
    """
    loss = stock_nll_loss(logp, target, None if weight is None else weight.to(logp.dtype), NONE, ignore_index)
    at, hard = (target * valid).unsqueeze(1), shares.unsqueeze(1)
    mass = hard
    if smoothing:
        hard = hard * (1 - smoothing)
        even = smoothing / logp.shape[1] * (torch.ones_like(logp[:1]) if weight is None else by_channel(weight, logp))
        on = valid.unsqueeze(1).to(logp.dtype)
        # An ignored row counts nothing, whatever stands in it.
        soft = (logp * even).sum(1).masked_fill_(~valid, 0)
        loss = loss * (1 - smoothing) - soft
        mass = hard + on * even.sum(1, keepdim=True)
    e = logp.exp_().mul_(mass).scatter_add_(1, at, -hard)
    if smoothing:
        e -= even * on
    return loss, e


def from_probabilities(logp: Tensor, target: Tensor, weight: Tensor | None, smoothing: float) -> tuple[Tensor, Tensor]:
    """Row losses [n, *] and e [n, C, *] (in logp's memory) for class probabilities [n, C, *]."""
    c = target.to(logp.dtype)
    if smoothing:
        c = c * (1 - smoothing) + smoothing / c.shape[1]
    if weight is not None:
        c = c * by_channel(weight, c)
    loss = -(logp * c).sum(1)
    return loss, logp.exp_().mul_(c.sum(1, keepdim=True)).sub_(c)


def by_channel(weight: Tensor, like: Tensor) -> Tensor:
    """[C] as [1, C, 1, ...], to stand beside [n, C, *]."""
    return weight.to(like.dtype).reshape(1, -1, *(1,) * (like.ndim - 2))


def soft_cross_entropy(input: Dual, target: Tensor, weight: Any, reduction: int, smoothing: float) -> Any:
    """Probabilities that move themselves (a teacher that learns): by plain operations."""
    axis = 0 if input.ndim == 1 else 1
    classes = input.shape[axis]
    if smoothing:
        target = target * (1 - smoothing) + smoothing / classes
    if weight is not None:
        target = target * (weight if axis == 0 else by_channel(weight, input.primal))
    losses = -(torch.log_softmax(input, axis) * target).sum(axis)
    if reduction == NONE:
        return losses
    total = losses.sum()
    return total if reduction == SUM else total / (input.numel() // classes)


@rule(stock_nll_loss)
@widened
def nll_loss(
    input: Any,
    target: Tensor,
    weight: Any = None,
    reduction: int = MEAN,
    ignore_index: int = -100,
) -> Any:
    if not isinstance(input, Dual) or isinstance(weight, Dual):
        return NotImplemented

    def loss(x: Tensor) -> Tensor:  # linear in its input
        return stock_nll_loss(x, target, weight, reduction, ignore_index)

    return loss(input.primal), torch.stack([loss(dx) for dx in input.dense()])


def of_difference(f: Callable, backward: Callable) -> None:
    """Registers a loss that depends on (input - target) alone, with aten's own e."""

    def pushed(input: Any, target: Any, reduction: int = MEAN, *more: float, **named: float) -> Any:
        x, t, dx, dt = primal(input), primal(target), tangent(input), tangent(target)
        if x.shape != t.shape or x.dtype != t.dtype:
            return NotImplemented
        y = f(x, t, reduction, *more, **named)
        e = backward(torch.ones_like(y), x, t, reduction, *more, *named.values())
        d = dx if dt is None else -dt if dx is None else dx - dt
        assert d is not None
        return y, reduced(e, d, y)

    RULES[f] = widened(pushed)


def reduced(e: Tensor, dx: Tensor, y: Tensor) -> Tensor:
    """<e, dx_k> where the loss is one number, e dx_k where it is one per entry."""
    if y.shape == e.shape:
        return dx * e
    return contract(e.to(torch.promote_types(e.dtype, torch.float32)), dx).to(y.dtype)


def l1_slope(g: Tensor, x: Tensor, t: Tensor, reduction: int) -> Tensor:
    """sign(x - t), over the count for a mean."""
    return (x - t).sign_().mul_(g / x.numel() if reduction == MEAN else g)


of_difference(torch._C._nn.mse_loss, aten.mse_loss_backward)
of_difference(torch._C._nn.l1_loss, l1_slope)
of_difference(torch._C._nn.smooth_l1_loss, aten.smooth_l1_loss_backward)
of_difference(torch._C._nn.huber_loss, aten.huber_loss_backward)


@rule(stock_binary_cross_entropy)
@widened
def binary_cross_entropy(input: Any, target: Any, weight: Any = None, reduction: int = MEAN) -> Any:
    if not isinstance(input, Dual) or isinstance(target, Dual) or isinstance(weight, Dual):
        return NotImplemented
    x, dx = input.primal, input.dense()
    y = stock_binary_cross_entropy(x, target, weight, reduction)
    return y, reduced(aten.binary_cross_entropy_backward(torch.ones_like(y), x, target, weight, reduction), dx, y)


@rule(torch.binary_cross_entropy_with_logits)
@widened
def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: int = MEAN,
) -> Any:
    if not isinstance(input, Dual) or any(isinstance(x, Dual) for x in (target, weight, pos_weight)):
        return NotImplemented
    x = input.primal
    y = torch.binary_cross_entropy_with_logits(x, target, weight, pos_weight, reduction)
    e = x.sigmoid() - target
    if pos_weight is not None:
        e -= (pos_weight - 1) * target * x.neg().sigmoid()
    if weight is not None:
        e = e * weight
    return y, reduced(e.div_(e.numel()) if reduction == MEAN else e, input.dense(), y)


@rule(torch.kl_div)
@widened
def kl_div(input: Any, target: Any, reduction: int = MEAN, *, log_target: bool = False) -> Any:
    if not isinstance(input, Dual) or isinstance(target, Dual) or input.shape != target.shape:
        return NotImplemented
    y = torch.kl_div(input.primal, target, reduction, log_target=log_target)
    e = target.exp().neg_() if log_target else -target
    return y, reduced(e.div_(e.numel()) if reduction == MEAN else e, input.dense(), y)
