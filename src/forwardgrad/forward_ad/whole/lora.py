r"""Low-rank adapters of PEFT: y + s B A x, where the last product, its factor and the sum are one operation.

With h = A x, and b_k the tangents of B,

.. math:: dy_k + [dh_k, h]\, [s B, s\, b_k]^\top

is one thin product for each tangent; a rank-one b_k needs one column of h only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from forwardgrad.forward_ad.dual import in_dtype, primal, structure, tangent
from forwardgrad.forward_ad.registry import rule
from forwardgrad.forward_ad.rules.linear import transposed
from forwardgrad.forward_ad.whole.table import whole
from forwardgrad.tangents.kinds import RankOne


@whole(r"peft\.tuners\.lora\.layer\.Linear")
def adapted(layer: Any, x: Tensor) -> Any:
    """The layer's own forward, but for `product_added`.

    Args:
        layer: with adapters that are active, not merged, and of the plain kind.
        x: [*, n].
    """
    if layer.disable_adapters or layer.merged or layer.lora_variant:
        return NotImplemented
    y = layer.base_layer(x)
    dtype = y.dtype
    for name in layer.active_adapters:
        if name in layer.lora_A:
            A, B, s = layer.lora_A[name], layer.lora_B[name], layer.scaling[name]
            x = layer._cast_input_dtype(x, A.weight.dtype)
            h = A(layer.lora_dropout[name](x))
            plain = is_plain(B) and h.dtype == y.dtype == B.weight.dtype
            y = product_added(y, h, B.weight, s) if plain else y + B(h) * s
    return y.to(dtype)


def is_plain(layer: nn.Module) -> bool:
    """Whether calling this layer does nothing but multiply by its weight."""
    watched = layer._forward_hooks or layer._forward_pre_hooks or "forward" in layer.__dict__
    return type(layer) is nn.Linear and layer.bias is None and not watched


def product_added(y: Tensor, h: Tensor, B: Tensor, s: float) -> Tensor:
    """y + s h B^T.

    Args:
        y: [*, m].
        h: [*, r].
        B: [m, r].
        s: the factor.
    """
    if has_torch_function((y, h, B)):
        return handle_torch_function(product_added, (y, h, B), y, h, B, s)
    return torch.addmm(flat(y), flat(h), B.T, alpha=s).view(y.shape)


@rule(product_added)
def push_product_added(y: Tensor, h: Tensor, B: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """dy_k + [dh_k, h b_k] [s B, s a_k]^T for B_k = a_k b_k^T; [dh_k, h] [s B, s B_k]^T for any other B_k."""
    out = product_added(primal(y), primal(h), primal(B), s)
    dy, dh, dB = tangent(y), tangent(h), structure(B)
    K = next(v.shape[0] if isinstance(v, Tensor) else v.num_tangents for v in (dy, dh, dB) if v is not None)
    h, B = flat(primal(h)), primal(B)
    left, right = [], []  # [K, N, *], [K, *, m]
    if dh is not None:
        left.append(dh.reshape(K, *h.shape))
        right.append(B.T.expand(K, -1, -1))
    if isinstance(dB, RankOne):  # B_k = a_k b_k^T: h B_k^T = (h b_k) a_k^T
        left.append(F.linear(h, in_dtype(dB.b, h.dtype)).T.unsqueeze(-1))
        right.append(in_dtype(dB.a, h.dtype).unsqueeze(1))
    elif dB is not None:
        v = transposed(dB)
        left.append(h.expand(K, -1, -1))
        right.append(v if isinstance(v, Tensor) else v.dense())
    if not left:
        assert dy is not None
        return out, dy.clone()
    L, R = torch.cat(left, -1), torch.cat(right, 1).mul_(s)
    moved = torch.bmm(L, R) if dy is None else torch.baddbmm(dy.reshape(K, *flat(out).shape), L, R)
    return out, moved.view(K, *out.shape)


def flat(x: Tensor) -> Tensor:
    """[N, m] from [*, m]."""
    return x.reshape(-1, x.shape[-1])
