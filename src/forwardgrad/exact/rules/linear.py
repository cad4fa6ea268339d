"""Linear layers: y = x W^T + b, with no more outputs than inputs."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from forwardgrad.exact.inverse import right_inverse
from forwardgrad.exact.registry import Swept, layer_rule


@layer_rule(nn.Linear)
class LinearRule:
    """h_x = h_y W, hence h_y = h_x W^+."""

    inverts = False

    def admit(self, layer: nn.Linear) -> str:
        return "at most as many outputs as inputs" if layer.out_features > layer.in_features else ""

    def keep(self, layer: nn.Linear, x: Tensor, y: Tensor) -> None:
        return None

    def pull(self, layer: nn.Linear, kept: None, y: Tensor | None, h: Tensor) -> tuple[Tensor, None]:
        return h @ layer.weight, None

    def sweep(self, layer: nn.Linear, x: Tensor, h: Tensor, wanted: Collection[str]) -> Swept:
        y, h = layer(x), h @ right_inverse(layer.weight).to(h.dtype)
        rows, grads = h.flatten(0, -2), {}
        if "weight" in wanted:
            grads["weight"] = rows.T @ x.flatten(0, -2)
        if "bias" in wanted:
            grads["bias"] = rows.sum(0)
        return Swept(y, h, grads)
