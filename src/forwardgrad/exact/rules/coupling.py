"""Coupling blocks: their inverse Jacobian takes a vjp of each inner network, and no solve."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from forwardgrad.exact.registry import Swept, layer_rule
from forwardgrad.layers import Coupling
from forwardgrad.layers.coupling import halves, mixed, unmixed


@layer_rule(Coupling)
class CouplingRule:
    r"""Each half step w = s(v) u + t(v) is undone in its turn.

    .. math::
        t_1 = h_{x_1} / s_f, \quad h_{y_2} = (h_{x_2} - t_1\, \partial y_1/\partial x_2) / s_g, \quad
        h_{y_1} = t_1 - h_{y_2}\, \partial y_2/\partial y_1

    `pull` rebuilds the block's input from its output, so that a run of blocks keeps one output in all.
    """

    inverts = True

    def admit(self, layer: Coupling) -> str:
        return ""

    def keep(self, layer: Coupling, x: Tensor, y: Tensor) -> None:
        return None

    def pull(self, layer: Coupling, kept: None, y: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        assert y is not None
        (y1, y2), (h1, h2) = halves(y), halves(h)
        x2, h2, through = _back(layer, layer.g, y2, y1, h2)
        h1 = h1 + through
        x1, h1, through = _back(layer, layer.f, y1, x2, h1)
        return torch.cat([h1, h2 + through], 1), torch.cat([x1, x2], 1)

    def sweep(self, layer: Coupling, x: Tensor, h: Tensor, wanted: Collection[str]) -> Swept:
        (x1, x2), (h1, h2) = halves(x), halves(h)
        of_f, of_g = _below(layer.f, "f", wanted), _below(layer.g, "g", wanted)
        y1, h1, through, grads = _forth(layer, layer.f, x1, x2, h1, of_f)
        y2, h2, around, others = _forth(layer, layer.g, x2, y1, h2 - through, of_g)
        return Swept(torch.cat([y1, y2], 1), torch.cat([h1 - around, h2], 1), grads | others)


def _back(layer: Coupling, network: nn.Module, w: Tensor, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(u, dL/du, what dL/dw says of v) of a half step w = s(v) u + t(v)."""
    with torch.enable_grad():
        v = v.detach().requires_grad_()
        scale, shift = layer.terms(network, v)
        u = unmixed(w, scale, shift).detach()
        (through,) = torch.autograd.grad(mixed(u, scale, shift), v, h)
    return u, h if scale is None else h * scale.detach(), through


def _forth(
    layer: Coupling, network: nn.Module, u: Tensor, v: Tensor, h: Tensor, wanted: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """(w, dL/dw, what dL/dw says of v, of the network) of a half step, out of what dL/du is through w."""
    with torch.enable_grad():
        v = v.detach().requires_grad_()
        scale, shift = layer.terms(network, v)
        w = mixed(u, scale, shift)
        h = h if scale is None else h / scale.detach()
        through, *grads = torch.autograd.grad(w, [v, *wanted.values()], h, allow_unused=True)
    found = {name: g for name, g in zip(wanted, grads, strict=True) if g is not None}
    return w.detach(), h, torch.zeros_like(v) if through is None else through, found


def _below(network: nn.Module, prefix: str, wanted: Collection[str]) -> dict[str, Tensor]:
    return {f"{prefix}.{n}": p for n, p in network.named_parameters() if f"{prefix}.{n}" in wanted}
