"""A small GPT: learned positions, pre-norm blocks, fused attention, GELU.

Shapes: B batch, T context, V vocabulary, E width, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

_STD = 0.02  # of weights, as in GPT-2; projections into the stream are narrower by the square root of their number


class Gpt(nn.Module):
    """Logits of the next character after each of the characters given.

    Args:
        vocabulary: V.
        context: the longest T.
        width: E, a multiple of `heads`.
        heads: H.
        layers: number of blocks.
        dropout: on the embedding, and on what each block adds to the stream.
        tied: the output layer uses the weights of the embedding.
        generator: source of the weights.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
        tied: bool,
        generator: Generator,
    ) -> None:
        super().__init__()
        # skip_init: torch's own initialisation would draw from its default generator.
        self.characters = skip_init(nn.Embedding, vocabulary, width)
        self.positions = skip_init(nn.Embedding, context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.output = None if tied else skip_init(nn.Linear, width, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = _STD / math.sqrt(2 * layers) if name.endswith("into.weight") else _STD
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, T, V] for tokens [B, T]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        stream = self.blocks(self.dropout(self.characters(tokens) + self.positions(places)))
        weight = self.characters.weight if self.output is None else self.output.weight
        return F.linear(self.norm(stream), weight)


class Block(nn.Module):
    """Attention, then a perceptron; each reads the normalised stream and adds to it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.perceptron = Perceptron(width)
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor) -> Tensor:
        """The stream [B, T, E] after the block."""
        stream = stream + self.dropout(self.attention(self.before_attention(stream)))
        return stream + self.dropout(self.perceptron(self.before_perceptron(stream)))


class Attention(nn.Module):
    """Causal attention of H heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.read = skip_init(nn.Linear, width, 3 * width)
        self.into = skip_init(nn.Linear, width, width)

    def forward(self, x: Tensor) -> Tensor:
        """What each place gathers from those up to it [B, T, E]."""
        batch, length, width = x.shape
        split = self.read(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, T, E / H]
        gathered = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.into(gathered.transpose(1, 2).reshape(batch, length, width))


class Perceptron(nn.Module):
    """One hidden layer, four times as wide as the stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = skip_init(nn.Linear, width, 4 * width)
        self.into = skip_init(nn.Linear, 4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape [B, T, E]."""
        return self.into(F.gelu(self.hidden(x)))
