"""Layers that only name entries anew."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from forwardgrad.exact.registry import Swept, layer_rule


@layer_rule(nn.Flatten, nn.Unflatten, nn.Identity)
class ShapeRule:
    """Cotangents take the other shape."""

    inverts = False

    def admit(self, layer: nn.Module) -> str:
        return ""

    def keep(self, layer: nn.Module, x: Tensor, y: Tensor) -> torch.Size:
        return x.shape

    def pull(self, layer: nn.Module, kept: torch.Size, y: Tensor | None, h: Tensor) -> tuple[Tensor, None]:
        return h.reshape(kept), None

    def sweep(self, layer: nn.Module, x: Tensor, h: Tensor, wanted: Collection[str]) -> Swept:
        y = layer(x)
        return Swept(y, h.reshape(y.shape), {})
