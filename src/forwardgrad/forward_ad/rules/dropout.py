r"""Dropout and its kin: y = m o x (+ c), with one mask m for the primal and all tangents, dy_k = m o dx_k.

The mask is drawn as PyTorch draws it, from the same place of the same stream of random numbers, so that a seeded push
and a seeded forward pass see the same mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.dual import Dual, write_through
from forwardgrad.forward_ad.registry import rule

Mask = tuple[Tensor, Tensor | None]

# alpha of Klambauer et al., "Self-Normalizing Neural Networks" (2017): minus the value at which SELU saturates.
_SATURATION = 1.7580993408473766


def kept(x: Tensor, p: float) -> Mask:
    """m in {0, 1/(1-p)} for every entry."""
    if x.device.type != "cpu":  # accelerators draw in a fused kernel
        ones = torch.ones_like(x)
        return torch.native_dropout(ones, p, True)[0], None
    return torch.empty_like(x).bernoulli_(1 - p).div_(1 - p), None


def kept_features(x: Tensor, p: float) -> Mask:
    """m in {0, 1/(1-p)} for every channel of [N, C, *]."""
    return features(x, p).div_(1 - p), None


def features(x: Tensor, p: float) -> Tensor:
    """A draw for every channel of [N, C, *].

    Raises:
        RuntimeError: x has fewer than two dimensions, in PyTorch's words.
    """
    if x.ndim < 2:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
    return x.new_empty((*x.shape[:2], *(1,) * (x.ndim - 2))).bernoulli_(1 - p)


def kept_or_saturated(x: Tensor, p: float) -> Mask:
    """Self-normalising: dropped entries go to SELU's saturation, then mean and variance are put right."""
    return saturating(torch.empty_like(x).bernoulli_(1 - p), p)


def kept_or_saturated_features(x: Tensor, p: float) -> Mask:
    """The same for whole channels."""
    return saturating(features(x, p), p)


def saturating(noise: Tensor, p: float) -> Mask:
    """(m, c) from a draw in {0, 1}."""
    a = 1.0 / ((_SATURATION**2 * p + 1) * (1 - p)) ** 0.5
    c = noise.add(-1).mul_(_SATURATION * a).add_(_SATURATION * a * p)
    return noise.mul_(a), c


def drop(draw: Callable[[Tensor, float], Mask], input: Dual, p: float, training: bool, inplace: bool) -> Any:
    """One of the family; without training, or with p = 0, the very tensor that came in.

    Raises:
        ValueError: p is not a probability.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    x = input.primal
    if not training or p == 0 or x.numel() == 0:
        return input
    m, c = (torch.zeros((), dtype=x.dtype, device=x.device), None) if p == 1 else draw(x, p)
    y, dy = x * m, input.dense() * m
    if c is not None:
        y.add_(c)
    return write_through(input, y, dy) if inplace else (y, dy)


def _family(draw: Callable[[Tensor, float], Mask], functional: Any, plain: Any, in_place: Any, training: bool) -> None:
    @rule(functional)
    def functional_form(input: Dual, p: float = 0.5, training: bool = training, inplace: bool = False) -> Any:
        return drop(draw, input, p, training, inplace)

    @rule(plain)
    def plain_form(input: Dual, p: float, train: bool) -> Any:
        return drop(draw, input, p, train, False)

    @rule(in_place)
    def in_place_form(input: Dual, p: float, train: bool) -> Any:
        return drop(draw, input, p, train, True)


_family(kept, F.dropout, torch.dropout, torch.dropout_, True)
_family(kept_features, F.dropout2d, torch.feature_dropout, torch.feature_dropout_, True)
_family(kept_or_saturated, F.alpha_dropout, torch.alpha_dropout, torch.alpha_dropout_, False)
_family(
    kept_or_saturated_features,
    F.feature_alpha_dropout,
    torch.feature_alpha_dropout,
    torch.feature_alpha_dropout_,
    False,
)


def _single_samples(stock: Callable[..., Tensor], batched: int) -> None:
    """Channel dropout that also takes one sample [C, *]: a batch of one."""

    def draw(x: Tensor, p: float) -> Mask:
        if x.ndim == batched:
            return kept_features(x, p)
        m, _ = kept_features(x.unsqueeze(0), p)
        return m.squeeze(0), None

    @rule(stock)
    def functional_form(input: Dual, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        return drop(draw, input, p, training, inplace)


_single_samples(F.dropout1d, 3)
_single_samples(F.dropout3d, 5)


@rule(torch.native_dropout)
def native_dropout(input: Dual, p: float, train: bool | None) -> Any:
    y, mask = torch.native_dropout(input.primal, p, train)
    if train is False:
        return [(y, input.dense().clone()), mask]
    return [(y, input.dense() * mask * (0.0 if p == 1 else 1 / (1 - p))), mask]


def rrelu_with(input: Dual, lower: float, upper: float, training: bool, inplace: bool) -> Any:
    """max(x, 0) + s min(x, 0) with slopes s drawn from [lower, upper), or their mean outside training."""
    x = input.primal
    if training:
        slopes = torch.empty_like(x)
        y = torch.ops.aten.rrelu_with_noise(x, slopes, lower, upper, True)  # writes the slopes, 1 where x > 0
        dy = input.dense() * slopes
    else:
        mean = (lower + upper) / 2
        y = F.leaky_relu(x, mean)
        dy = input.dense() * torch.where(x > 0, torch.ones_like(x), mean)
    return write_through(input, y, dy) if inplace else (y, dy)


@rule(F.rrelu)
def rrelu(
    input: Dual,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Any:
    return rrelu_with(input, lower, upper, training, inplace)


@rule(torch.rrelu)
def plain_rrelu(input: Dual, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Any:
    return rrelu_with(input, lower, upper, training, False)


@rule(torch.rrelu_)
def in_place_rrelu(input: Dual, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Any:
    return rrelu_with(input, lower, upper, training, True)
