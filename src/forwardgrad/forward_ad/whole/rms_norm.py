"""Root-mean-square norms of Hugging Face's models (Llama, Mistral, Qwen, T5, ...), by PyTorch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.whole.table import whole


@whole(r"transformers\.models\..*(RMSNorm|T5LayerNorm)")
def rms_norm(layer: Any, x: Tensor) -> Any:
    r"""w x / sqrt(mean(x^2) + eps), or (1 + w) x / sqrt(mean(x^2) + eps) in Gemma and its kin.

    Args:
        layer: with `weight` [m] and `variance_epsilon`; the kind that counts its weight from one has `eps`.
        x: [*, m] in the weight's dtype, at most float32: these layers round wider ones to it.
    """
    w, from_zero = layer.weight, hasattr(layer, "variance_epsilon")
    if x.dtype != w.dtype or x.dtype == torch.float64 or x.shape[-1:] != w.shape:
        return NotImplemented
    if from_zero:
        return F.rms_norm(x, w.shape, w, layer.variance_epsilon)
    if x.dtype != torch.float32:
        return NotImplemented  # 1 + w has too few digits there, and the layer itself takes it in float32
    return F.rms_norm(x, w.shape, 1 + w, layer.eps)
