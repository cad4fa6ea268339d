"""A start from which the Jacobian of a linear layer keeps lengths, nearly: its inverse then loses no digits."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn


def conditioned_(layer: nn.Module, spread: float = 0.1, generator: Generator | None = None) -> nn.Module:
    r"""Fills the weights of linear layers and convolutions below `layer` with semi-orthogonal ones plus noise.

    .. math:: W = Q + \text{spread} \cdot \epsilon / \sqrt{\text{fan in}}, \qquad \epsilon \sim N(0, 1)

    Q has orthonormal rows where it can; in a convolution it is the middle tap where windows overlap, and all taps
    together where they do not. Biases become 0.

    Args:
        layer: any module; changed in place.
        spread: of the noise; what makes taps beside the middle one differ from 0.
        generator: for the draw; torch's own where none is given.

    Returns:
        The same module.
    """
    with torch.no_grad():
        for module in layer.modules():
            if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                continue
            w, stride = module.weight, getattr(module, "stride", ())
            taps = tuple(w.shape[2:])
            apart = taps == stride
            q = torch.zeros_like(w)
            part = q if apart else _middle(q)
            part.copy_(_semi_orthogonal(part, generator))
            noise = torch.randn(w.shape, generator=generator, dtype=w.dtype, device=w.device)
            w.copy_(q + spread * noise / w[0].numel() ** 0.5)
            if module.bias is not None:
                module.bias.zero_()
    return layer


def _middle(kernel: Tensor) -> Tensor:
    for size in kernel.shape[2:]:
        kernel = kernel.select(2, size // 2)
    return kernel


def _semi_orthogonal(like: Tensor, generator: Generator | None) -> Tensor:
    rows, columns = like.shape[0], like[0].numel()
    drawn = torch.randn(max(rows, columns), min(rows, columns), generator=generator, device=like.device)
    q = torch.linalg.qr(drawn).Q.to(like.dtype)
    return (q if rows >= columns else q.T).reshape(like.shape)
