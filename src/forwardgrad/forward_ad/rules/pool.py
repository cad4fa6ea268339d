"""Pooling and resampling: maxima are followed by their indices, everything else is linear and done to the tangents.

Linear maps see the K tangents of a batch [N, C, *] as one batch of K N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.dual import Dual, primal, tangent
from forwardgrad.forward_ad.registry import rule
from forwardgrad.forward_ad.rules.conv import over_batch


def linear_map(f: Callable[..., Tensor], batched: int, *aliases: Any) -> None:
    """Registers y = f(x), linear in x: inputs of `batched` dimensions are batches, smaller ones single samples."""

    @rule(f, *aliases)
    def pushed(input: Dual, *args: Any, **kwargs: Any) -> Any:
        x, dx = input.primal, input.dense()
        y = f(x, *args, **kwargs)
        if x.ndim < batched:
            return y, f(dx, *args, **kwargs)
        return y, over_batch(lambda z: f(z, *args, **kwargs), dx)


linear_map(F.avg_pool1d, 3)
linear_map(F.avg_pool2d, 4)
linear_map(F.avg_pool3d, 5)
linear_map(F.adaptive_avg_pool1d, 3)
linear_map(F.adaptive_avg_pool2d, 4)
linear_map(F.adaptive_avg_pool3d, 5)
linear_map(F.interpolate, 3)
linear_map(F.channel_shuffle, 3)
linear_map(F.unfold, 4)
linear_map(F.fold, 3)


@rule(F.pixel_shuffle)
def pixel_shuffle(input: Dual, upscale_factor: int) -> Any:
    return F.pixel_shuffle(input.primal, upscale_factor), F.pixel_shuffle(input.dense(), upscale_factor)


@rule(F.pixel_unshuffle)
def pixel_unshuffle(input: Dual, downscale_factor: int) -> Any:
    return F.pixel_unshuffle(input.primal, downscale_factor), F.pixel_unshuffle(input.dense(), downscale_factor)


@rule(F.pad)
def pad(input: Dual, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    if mode != "constant" and not input.primal.numel():
        return NotImplemented
    y, dx = F.pad(input.primal, pad, mode, value), input.dense()
    if mode == "constant":
        return y, F.pad(dx, pad)
    space = len(pad) // 2
    lead = dx.ndim - space  # the modes that look at the input take one leading dimension, or two
    return y, F.pad(dx.flatten(0, lead - 1), pad, mode).unflatten(0, dx.shape[:lead])


def max_pool(f: Callable[..., tuple[Tensor, Tensor]], space: int, *names: Any) -> None:
    """Registers y = x[argmax], where f gives (y, argmax) over `space` trailing dimensions: dy_k = dx_k[argmax]."""

    @rule(f, *names)
    def pushed(input: Dual, *args: Any, return_indices: bool = False, **kwargs: Any) -> Any:
        y, index = f(input.primal, *args, **kwargs)
        dx = input.dense()
        flat = index.flatten(-space).expand(dx.shape[0], *[-1] * (index.ndim - space + 1))
        dy = dx.flatten(-space).gather(-1, flat).view(dx.shape[0], *y.shape)
        return [(y, dy), index] if return_indices else (y, dy)


max_pool(F.max_pool1d_with_indices, 1, F.max_pool1d, torch.max_pool1d)
max_pool(F.max_pool2d_with_indices, 2, F.max_pool2d, torch.max_pool2d)
max_pool(F.max_pool3d_with_indices, 3, F.max_pool3d, torch.max_pool3d)
max_pool(F.adaptive_max_pool1d_with_indices, 1, F.adaptive_max_pool1d)
max_pool(F.adaptive_max_pool2d_with_indices, 2, F.adaptive_max_pool2d)
max_pool(F.adaptive_max_pool3d_with_indices, 3, F.adaptive_max_pool3d)
max_pool(F.fractional_max_pool2d_with_indices, 2, F.fractional_max_pool2d)
max_pool(F.fractional_max_pool3d_with_indices, 3, F.fractional_max_pool3d)


@rule(F.normalize)
def normalize(input: Any, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: None = None) -> Any:
    r"""y = x / n with n = max(|x|, eps), so dy_k = (dx_k - y (y . dx_k)) / n; below eps its first term alone."""
    x, dx = primal(input), tangent(input)
    if p != 2.0 or dx is None or isinstance(dim, (tuple, list)) or x.is_complex():
        return NotImplemented
    size = x.norm(2, dim, keepdim=True)
    y = x / size.clamp_min(eps)
    axis = dim % x.ndim + 1
    along = (dx * y).sum(axis, keepdim=True) * (size >= eps)
    return y, (dx - y * along).div_(size.clamp_min(eps))
