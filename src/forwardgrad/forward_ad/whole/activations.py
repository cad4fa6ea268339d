"""Activations that Hugging Face writes out, by PyTorch's fused kernels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from forwardgrad.forward_ad.whole.table import whole


@whole(r"transformers\.activations\.(NewGELU|FastGELU|AccurateGELU)Activation")
@whole(r"transformers\.models\.bloom\.modeling_bloom\.BloomGelu")
def gelu_by_tanh(layer: nn.Module, x: Tensor) -> Tensor:
    r"""x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), GPT-2's and its descendants'.

    BLOOM's is an autograd.Function of its own without a `jvp`, through which no tangent could pass.
    """
    return F.gelu(x, approximate="tanh")


@whole(r"transformers\.activations\.QuickGELUActivation")
def quick_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), CLIP's."""
    return F.silu(1.702 * x) / 1.702
