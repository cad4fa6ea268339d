r"""Weight normalisation: w = g v / |v|, with |v| over all dimensions but one.

With u = v / |v|,

.. math:: dw_k = u\, dg_k + \frac{g}{|v|} \left(dv_k - u\, \langle u, dv_k \rangle\right).
"""

from __future__ import annotations

from typing import Any

import torch

from forwardgrad.forward_ad.dual import aligned, primal, tangent
from forwardgrad.forward_ad.registry import rule


@rule(torch._weight_norm)
def weight_norm(v: Any, g: Any, dim: int = 0) -> Any:
    x, size = primal(v), primal(g)
    norm = torch.norm_except_dim(x, 2, dim)
    gain = size / norm
    y = torch._weight_norm(x, size, dim)
    dv, dg = tangent(v), tangent(g)
    dg = None if dg is None else aligned(dg, x.ndim)
    if dv is None:
        return y, dg * (x / norm)
    u = x / norm
    axes = [d + 1 for d in range(x.ndim) if dim == -1 or d != dim % x.ndim]
    dy = (dv - u * (dv * u).sum(axes, keepdim=True)).mul_(gain)
    return y, dy if dg is None else dy.addcmul_(dg, u)


@rule(torch._weight_norm_interface)
def weight_norm_interface(v: Any, g: Any, dim: int = 0) -> Any:
    return [weight_norm(v, g, dim), torch.norm_except_dim(primal(v), 2, dim)]
