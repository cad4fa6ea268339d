"""Root-mean-square norms of Hugging Face's models (Llama, Mistral, Qwen, ...), by PyTorch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.whole.table import whole


@whole(r"transformers\.models\..*RMSNorm")
def rms_norm(layer: Any, x: Tensor) -> Any:
    r"""w x / sqrt(mean(x^2) + eps).

    Args:
        layer: with `weight` [m] and `variance_epsilon`.
        x: [*, m] in the weight's dtype, at most float32: these layers round wider ones to it.
    """
    w = layer.weight
    if x.dtype != w.dtype or x.dtype == torch.float64 or x.shape[-1:] != w.shape:
        return NotImplemented
    return F.rms_norm(x, w.shape, w, layer.variance_epsilon)
