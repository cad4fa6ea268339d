r"""Grouped products, as of a mixture of experts: rows of x, sorted by expert, each times its own expert's matrix.

With e(i) the expert of row i,

.. math:: y_i = x_i W_{e(i)}, \qquad dy_{k,i} = dx_{k,i} W_{e(i)} + x_i V_{k,e(i)}.

PyTorch's kernel has no forward derivative. A rank-one V_k = a_k (x) B_k gives (x B_k) a_k[e(i)]: one product for all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forwardgrad.forward_ad.dual import primal, provenance, structure, tangent
from forwardgrad.forward_ad.registry import rule
from forwardgrad.forward_ad.rules.linear import matmul
from forwardgrad.tangents.kinds import RankOne


@rule(getattr(torch, "_grouped_mm", None))
def grouped_mm(
    self: Any, mat2: Any, offs: Tensor | None = None, bias: Any = None, out_dtype: torch.dtype | None = None
) -> Any:
    x, w = primal(self), primal(mat2)
    if bias is not None or out_dtype not in (None, x.dtype) or w.ndim != 3:
        return NotImplemented
    if offs is None:
        return matmul(self, mat2)
    if x.ndim != 2:
        return NotImplemented
    y = torch._grouped_mm(x, w, offs)
    dx, dw = tangent(self), structure(mat2)
    dy = torch.zeros((provenance((self, mat2), {})[1].num_tangents, *y.shape), dtype=y.dtype, device=y.device)
    ends = offs.tolist()
    if isinstance(dw, RankOne):
        expert = torch.repeat_interleave(offs.diff(prepend=offs.new_zeros(1)))
        routed = slice(0, ends[-1])
        dy[:, routed] = torch.matmul(x[routed], dw.b) * dw.a[:, expert].unsqueeze(-1)
    elif dw is not None and not isinstance(dw, Tensor):
        dw = dw.dense()
    for e, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if isinstance(dw, Tensor):
            dy[:, start:end] = torch.matmul(x[start:end], dw[:, e])
        if dx is not None:
            dy[:, start:end] += torch.matmul(dx[:, start:end], w[e])
    return y, dy
