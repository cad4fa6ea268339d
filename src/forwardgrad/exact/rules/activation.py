"""Leaky ReLU: strictly monotone, with two slopes, so that a bit an entry says which."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from forwardgrad.exact.registry import Swept, layer_rule


@layer_rule(nn.LeakyReLU)
class LeakyReLURule:
    """h_x = d * h_y with d = 1 or the negative slope, hence h_y = h_x / d."""

    inverts = False

    def admit(self, layer: nn.LeakyReLU) -> str:
        return "" if layer.negative_slope > 0 else "a negative slope above 0, so that no cotangent is lost"

    def keep(self, layer: nn.LeakyReLU, x: Tensor, y: Tensor) -> Bits:
        return packed(y > 0)

    def pull(self, layer: nn.LeakyReLU, kept: Bits, y: Tensor | None, h: Tensor) -> tuple[Tensor, None]:
        return chosen(kept, layer.negative_slope, 1.0, h.dtype).mul_(h), None

    def sweep(self, layer: nn.LeakyReLU, x: Tensor, h: Tensor, wanted: Collection[str]) -> Swept:
        y = layer(x)
        # Where y > 0 h, elsewhere h times the factor: the layer's own derivative, with the slope's reciprocal.
        return Swept(y, torch.ops.aten.leaky_relu_backward(h, y, 1 / layer.negative_slope, True), {})


class Bits(NamedTuple):
    """Truth values, eight a byte.

    Args:
        data: uint8, the first entry in the lowest bit.
        shape: of the truth values.
    """

    data: Tensor
    shape: torch.Size


# Multiplied by this, eight bytes of 0 or 1 (the first one lowest, as memory has it) leave their bits in the top byte.
_GATHER = 0x0102040810204080


def packed(mask: Tensor) -> Bits:
    """Eight entries a byte.

    Args:
        mask: bool.
    """
    flat = mask.flatten()
    if rest := -flat.numel() % 8:
        flat = torch.cat([flat, flat.new_zeros(rest)])
    words = flat.view(torch.uint8).view(torch.int64)
    return Bits((words * _GATHER).bitwise_right_shift_(56).to(torch.uint8), mask.shape)


def chosen(bits: Bits, no: float, yes: float, dtype: torch.dtype) -> Tensor:
    """`yes` where a bit is set and `no` elsewhere, read eight at a time from a table.

    Args:
        bits: of shape [*s].
        no: for a bit that is not set.
        yes: for one that is.
        dtype: of the result [*s].
    """
    device = bits.data.device
    places = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    table = torch.full((256, 8), no, dtype=dtype, device=device).masked_fill_(places.bool(), yes)
    return table.index_select(0, bits.data.int()).flatten()[: bits.shape.numel()].view(bits.shape)
