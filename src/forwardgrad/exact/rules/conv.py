r"""Convolutions, by their private taps.

In a window of size k and stride s, padding p, tap t is *private* where no other window sees the same input, which
in each dimension is the range

.. math:: \max(0, k - s, p) \le t < \min(k, s)

(and a little less where the last window reaches into the padding). There :math:`h_x = h_y W_t`, so that the vijp is
:math:`h_y = h_x W_{\text{private}}^+`: a convolution again, with the pseudo-inverse for its kernel, parallel over
pixels. Patches (k = s) have private taps only; k = 3, s = 2, p = 1 has its middle one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from forwardgrad.errors import UnsupportedError
from forwardgrad.exact.inverse import right_inverse
from forwardgrad.exact.registry import Swept, layer_rule
from forwardgrad.exact.rules.circular import CircularRule

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


@layer_rule(nn.Conv1d, nn.Conv2d, nn.Conv3d)
class ConvRule:
    """Private taps; kernels that wrap around go to `CircularRule`."""

    inverts = False

    def admit(self, layer: Conv) -> str:
        if layer.padding_mode == "circular":
            return CircularRule().admit(layer)
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        if not plain or set(layer.dilation) != {1}:
            return "a convolution padded by numbers of zeros or circularly, without dilation"
        taps = 1
        for lowest, end in _private(layer):
            if lowest >= end:
                return "windows with a tap of their own (stride above padding and half the kernel) or circular padding"
            taps *= end - lowest
        if layer.out_channels > layer.in_channels * taps:
            return f"at most {layer.in_channels * taps} output channels, the inputs that a window has to itself"
        return ""

    def keep(self, layer: Conv, x: Tensor, y: Tensor) -> torch.Size:
        return x.shape

    def pull(self, layer: Conv, kept: torch.Size, y: Tensor | None, h: Tensor) -> tuple[Tensor, None]:
        if layer.padding_mode == "circular":
            return CircularRule().pull(layer, h), None
        return _backward(layer, h, h.new_empty(1).expand(kept), (True, False, False))[0], None

    def sweep(self, layer: Conv, x: Tensor, h: Tensor, wanted: Collection[str]) -> Swept:
        y = layer(x)
        if layer.padding_mode == "circular":
            h = CircularRule().vijp(layer, h)
            x = torch.nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode="circular")
        else:
            h = _vijp(layer, h, y.shape)
        asked = "weight" in wanted, "bias" in wanted
        _, weight, bias = _backward(layer, h, x, (False, *asked)) if any(asked) else (None, None, None)
        return Swept(y, h, {n: g for n, g in (("weight", weight), ("bias", bias)) if g is not None and n in wanted})


def _private(layer: Conv) -> list[tuple[int, int]]:
    """Per dimension, the first private tap and the one after the last."""
    paddings: Any = layer.padding
    sizes = zip(layer.kernel_size, layer.stride, paddings, strict=True)
    return [(max(0, k - s, p), min(k, s)) for k, s, p in sizes]


def _vijp(layer: Conv, h: Tensor, out: torch.Size) -> Tensor:
    w = layer.weight
    for dim, (lowest, end) in enumerate(_private(layer), start=2):
        stride, padding = layer.stride[dim - 2], int(layer.padding[dim - 2])
        end = min(end, h.shape[dim] + padding - (out[dim] - 1) * stride)  # the last window may reach into the padding
        if lowest >= end:
            raise UnsupportedError(
                "an inverse Jacobian needs inputs that one window alone sees",
                f"a last window in the padding of an input of size {h.shape[dim]}",
                "pad less, or take an input whose size the windows fill",
            )
        w = w.narrow(dim, lowest, end - lowest)
        h = h.narrow(dim, lowest - padding, (out[dim] - 1) * stride + end - lowest)
    inverse = right_inverse(w.reshape(layer.groups, w.shape[0] // layer.groups, -1)).mT.to(h.dtype)
    fold = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[h.ndim - 3]
    return fold(h, inverse.reshape(w.shape), None, layer.stride, groups=layer.groups)


def _backward(layer: Conv, h: Tensor, x: Tensor, mask: tuple[bool, bool, bool]) -> Any:
    padding = layer.padding if layer.padding_mode == "zeros" else [0] * len(layer.stride)
    sizes = None if layer.bias is None else [layer.out_channels]
    return torch.ops.aten.convolution_backward(
        h, x, layer.weight, sizes, layer.stride, padding, layer.dilation, False, [0] * len(layer.stride), layer.groups,
        mask,
    )  # fmt: skip
