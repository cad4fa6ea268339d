"""The rarer activations: dy_k = f'(x) dx_k, with f' from PyTorch's own backward kernels.

Their Python forms (`F.elu` and the like, with ``inplace``) are followed down to the functions registered here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.dual import Dual, aligned, primal, tangent
from forwardgrad.forward_ad.registry import rule
from forwardgrad.forward_ad.rules.elementwise import scaled

aten, nn = torch.ops.aten, torch._C._nn

# SELU's constants, from Klambauer et al., "Self-Normalizing Neural Networks" (2017).
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def activation(f: Callable[..., Tensor], times: Callable[..., Tensor]) -> None:
    """Registers y = f(x, ...) with times(g, x, ...) = f'(x) g."""

    @rule(f)
    def pushed(input: Dual, *args: Any, **kwargs: Any) -> Any:
        x = input.primal
        y = f(x, *args, **kwargs)
        return y, scaled(input.dense(), y, lambda g: times(g, x, *args, **kwargs))


def elu_times(g: Tensor, x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    return aten.elu_backward(g, alpha, scale, input_scale, False, x)


activation(nn.elu, elu_times)
activation(torch.selu, lambda g, x: elu_times(g, x, _SELU_ALPHA, _SELU_SCALE))
activation(torch.celu, lambda g, x, alpha=1.0: elu_times(g, x, alpha, 1.0, 1.0 / alpha))
activation(nn.leaky_relu, lambda g, x, slope=0.01: aten.leaky_relu_backward(g, x, slope, False))
activation(nn.hardtanh, lambda g, x, low=-1.0, high=1.0: aten.hardtanh_backward(g, x, low, high))
activation(nn.relu6, lambda g, x: aten.hardtanh_backward(g, x, 0.0, 6.0))
activation(nn.hardswish, lambda g, x: aten.hardswish_backward(g, x))
activation(nn.hardsigmoid, lambda g, x: aten.hardsigmoid_backward(g, x))
activation(nn.mish, lambda g, x: aten.mish_backward(g, x))
activation(torch.threshold, lambda g, x, threshold, value: aten.threshold_backward(g, x, threshold))
activation(F.logsigmoid, lambda g, x: g * torch.sigmoid(-x))


@rule(F.prelu)
def prelu(input: Any, weight: Any) -> Any:
    """y = max(x, 0) + w min(x, 0), with one w, or one a channel."""
    x, w = primal(input), primal(weight)
    if not x.ndim or w.ndim != 1:
        return NotImplemented
    y = F.prelu(x, w)
    dx, dw = tangent(input), tangent(weight)

    def beside(v: Tensor) -> Tensor:
        return v if v.shape[-1] == 1 or x.ndim < 2 else v.reshape(*v.shape, *(1,) * (x.ndim - 2))

    dy = None if dx is None else dx * torch.where(x > 0, torch.ones_like(w[:1]), beside(w))
    if dw is None:
        return y, dy
    below = aligned(beside(dw), x.ndim) * x.clamp(max=0)
    return y, below if dy is None else dy.add_(below)
