r"""Softmax and its logarithm.

.. math::
    y = \mathrm{softmax}(x):\quad dy_k = y \circ (dx_k - \langle y, dx_k \rangle), \qquad
    z = \log y:\quad dz_k = dx_k - \langle y, dx_k \rangle

The first is symmetric, so PyTorch's fused backward kernel computes it as well; the second is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.dual import Dual
from forwardgrad.forward_ad.registry import rule

Pair = tuple[Tensor, Tensor]
aten = torch.ops.aten
# Below this many entries a call costs more than the work: one call on repeated probabilities instead of K calls.
FEW = 1 << 14


def times_jacobian(y: Tensor, dx: Tensor, dim: int) -> Tensor:
    """y (dx_k - <y, dx_k>) for probabilities y [*s] along `dim` and dx [K, *s], in y's dtype.

    Args:
        y: [*s] with at least one dimension.
        dx: [K, *s] of the same dtype.
        dim: of the primal.
    """
    dim %= y.ndim
    if y.numel() < FEW:
        return aten._softmax_backward_data(dx, y.expand_as(dx), dim + 1, y.dtype)
    dy = torch.empty(dx.shape, dtype=dx.dtype, device=dx.device)
    for from_k, to_k in zip(dx, dy, strict=True):
        aten._softmax_backward_data.out(from_k, y, dim, y.dtype, grad_input=to_k)
    return dy


@rule(torch.softmax, Tensor.softmax)
def softmax(input: Dual, dim: int, dtype: torch.dtype | None = None) -> Pair:
    y = torch.softmax(input.primal, dim, dtype)
    dx = input.dense().to(y.dtype)
    if y.ndim == 0:
        return y, torch.zeros_like(dx)
    return y, times_jacobian(y, dx, dim)


@rule(F.softmax)
def functional_softmax(
    input: Dual,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Any:
    return NotImplemented if dim is None else softmax(input, dim, dtype)


@rule(torch.log_softmax, Tensor.log_softmax)
def log_softmax(input: Dual, dim: int, dtype: torch.dtype | None = None) -> Pair:
    z = torch.log_softmax(input.primal, dim, dtype)
    dx = input.dense().to(z.dtype)
    if z.ndim == 0:
        return z, torch.zeros_like(dx)
    dz = dx * z.exp()
    mean = dz.sum(dim % z.ndim + 1, keepdim=True)
    return z, torch.sub(dx, mean, out=dz)


@rule(F.log_softmax)
def functional_log_softmax(
    input: Dual,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Any:
    return NotImplemented if dim is None else log_softmax(input, dim, dtype)
