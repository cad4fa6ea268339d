"""A small net as fine-tuning leaves it: frozen layers, a low-rank adapter beside each, and a head."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn


class Adapted(nn.Module):
    r"""A frozen linear layer with a trained update of low rank, :math:`y = \tanh(W x + b + B A x)`.

    Args:
        width: of input and output.
        rank: of the adapter.
        generator: source of the weights; B begins small and not at zero, so that A has a gradient at once.
    """

    def __init__(self, width: int, rank: int, generator: Generator) -> None:
        super().__init__()
        drawn = lambda *shape: torch.randn(*shape, generator=generator) / shape[1] ** 0.5
        self.base = nn.utils.skip_init(nn.Linear, width, width).requires_grad_(False)
        self.base.weight.copy_(drawn(width, width))
        self.base.bias.zero_()
        self.lora_A, self.lora_B = nn.Parameter(drawn(rank, width)), nn.Parameter(drawn(width, rank) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width] to the same."""
        return torch.tanh(self.base(x) + (x @ self.lora_A.T) @ self.lora_B.T)


def adapted(layers: int, inputs: int, width: int, classes: int, seed: int, rank: int = 1) -> nn.Sequential:
    """A frozen projection, adapted layers, and a trained linear head.

    Args:
        layers: adapted ones.
        inputs: columns of the batch.
        width: of the layers.
        classes: of the head.
        seed: of all weights.
        rank: of the adapters.
    """
    generator = Generator().manual_seed(seed)
    first, head = (nn.utils.skip_init(nn.Linear, n, m) for n, m in ((inputs, width), (width, classes)))
    with torch.no_grad():
        for layer in (first, head):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / layer.in_features**0.5)
            layer.bias.zero_()
    first.requires_grad_(False)
    return nn.Sequential(first, nn.Tanh(), *(Adapted(width, rank, generator) for _ in range(layers)), head)
