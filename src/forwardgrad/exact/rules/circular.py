r"""Convolutions of stride 1 that wrap around: block-diagonal after a Fourier transform.

.. math:: \hat h_x(\omega) = \hat h_y(\omega)\, \hat W(\omega), \qquad
    \hat h_y(\omega) = \hat h_x(\omega)\, \hat W(\omega)^+

one matrix of output by input channels for each frequency.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forwardgrad.exact.inverse import right_inverse

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


class CircularRule:
    """The part of the convolutions' rule that is different where they wrap around."""

    def admit(self, layer: Conv) -> str:
        """What is missing, as in `LayerRule`."""
        whole = not isinstance(layer.padding, str) and all(
            k == 2 * int(p) + 1 for k, p in zip(layer.kernel_size, layer.padding, strict=True)
        )
        if not whole or set(layer.stride) != {1} or set(layer.dilation) != {1} or layer.groups != 1:
            return "a circular convolution of stride 1 that keeps the size, without groups or dilation"
        if layer.out_channels > layer.in_channels:
            return "at most as many output channels as input channels"
        return ""

    def pull(self, layer: Conv, h: Tensor) -> Tensor:
        """The vjp: the same convolution with its kernel turned round."""
        dims = tuple(range(2, h.ndim))
        padded = F.pad(h, layer._reversed_padding_repeated_twice, mode="circular")
        return (F.conv1d, F.conv2d, F.conv3d)[h.ndim - 3](padded, layer.weight.transpose(0, 1).flip(dims))

    def vijp(self, layer: Conv, h: Tensor) -> Tensor:
        """The inverse, frequency by frequency, in float32 at least."""
        dims, sizes = tuple(range(2, h.ndim)), h.shape[2:]
        wide = torch.float64 if h.dtype == torch.float64 else torch.float32
        kernel = layer.weight.new_zeros(*layer.weight.shape[:2], sizes.numel(), dtype=wide)
        kernel.index_add_(2, _places(layer, sizes, h.device), layer.weight.flatten(2).to(wide))
        kernel = kernel.unflatten(2, sizes)
        w = torch.fft.rfftn(kernel, dim=dims).flatten(2).permute(2, 0, 1)  # [frequencies, out, in]
        spectrum = torch.fft.rfftn(h.to(wide), dim=dims)
        shape = spectrum.shape
        lifted = spectrum.flatten(2).permute(2, 0, 1) @ right_inverse(w)  # [frequencies, B, out]
        back = lifted.permute(1, 2, 0).reshape(shape[0], -1, *shape[2:])
        return torch.fft.irfftn(back, s=sizes, dim=dims).to(h.dtype)


def _places(layer: Conv, sizes: torch.Size, device: torch.device) -> Tensor:
    """Where each tap lies in a picture of the input's size; several may share a place in a small one."""
    place = torch.zeros((), dtype=torch.long, device=device)
    paddings: Any = layer.padding
    for k, p, n in zip(layer.kernel_size, paddings, sizes, strict=True):
        place = place[..., None] * n + (torch.arange(k, device=device) - p) % n
    return place.flatten()
