"""Layers in integers: 8-bit activations in, 32-bit sums, 8-bit activations out.

Legend: q an integer, e its exponent (the number is q 2^-e); x input, W weight, b bias, a accumulator, y output.
Shapes: B batch, F and O features in and out, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from forwardgrad.fixedpoint.arithmetic import Saturation, saturated, shifted

_LARGEST = 2**31 - 1
_LARGEST_INPUT_BITS = 7  # |x| <= 2^7


class FixedLayer(Protocol):
    """A layer of a fixed-point net."""

    def __call__(self, x: Tensor, weights: Mapping[str, Tensor], saturation: Saturation) -> Tensor:
        """The layer's output.

        Args:
            x: int8 [B, ...].
            weights: of the whole net, by name.
            saturation: counts what is clamped.
        """


@dataclass(frozen=True)
class Requantise:
    r"""Accumulators to activations: :math:`y_q = \mathrm{clamp}(\mathrm{round}(a_q\,2^{e_y - e_a}))`.

    Args:
        places: e_y - e_a.
        relu: clamp at zero too.
    """

    places: int
    relu: bool

    def __call__(self, a: Tensor, saturation: Saturation, place: str) -> Tensor:
        return saturated(shifted(a, self.places), 8, saturation, place, low=0 if self.relu else None).to(torch.int8)


@dataclass(frozen=True)
class FixedLinear:
    r""":math:`a_q = W_q x_q + b_q 2^{e_W + e_x - e_b}` in 32 bits, then 8-bit activations.

    Args:
        path: of the layer in the float model; also the place of its saturation.
        bias_places: e_W + e_x - e_b, not negative; None without bias.
        out: to activations; None in the last layer, whose sums the loss reads.
    """

    path: str
    bias_places: int | None
    out: Requantise | None

    def __call__(self, x: Tensor, weights: Mapping[str, Tensor], saturation: Saturation) -> Tensor:
        W = weights[f"{self.path}.weight"].to(torch.int32).flatten(1)
        b = None if self.bias_places is None else weights[f"{self.path}.bias"].to(torch.int32) << self.bias_places
        self._guard(W, b, saturation)
        a = x.to(torch.int32) @ W.T
        a = a if b is None else a + b
        return a if self.out is None else self.out(a, saturation, self.path)

    def _guard(self, W: Tensor, b: Tensor | None, saturation: Saturation) -> None:
        """Counts rows whose sum some input could drive out of 32 bits: where none is counted, none has overflowed."""
        half = 0 if self.out is None or self.out.places >= 0 else 1 << min(-self.out.places - 1, 30)
        room = (_LARGEST - half) >> _LARGEST_INPUT_BITS
        reach = W.abs().sum(1, dtype=torch.int64)
        reach = reach if b is None else reach + (b.abs() >> _LARGEST_INPUT_BITS) + 1
        saturation.add(f"{self.path} accumulator", (reach > room).sum(), len(reach))


@dataclass(frozen=True)
class FixedConv2d:
    """A convolution as the linear layer of its windows.

    Args:
        linear: of the windows.
        kernel: its two sides.
        stride: in both directions.
        padding: with zeros, in both directions.
    """

    linear: FixedLinear
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def __call__(self, x: Tensor, weights: Mapping[str, Tensor], saturation: Saturation) -> Tensor:
        (kh, kw), (sh, sw) = self.kernel, self.stride
        windows = self._padded(x).unfold(2, kh, sh).unfold(3, kw, sw)  # [B, C, H', W', kh, kw]
        B, _, H, W = windows.shape[:4]
        rows = windows.permute(0, 2, 3, 1, 4, 5).reshape(B * H * W, -1)
        y = self.linear(rows, weights, saturation)
        return y.view(B, H, W, -1).permute(0, 3, 1, 2)

    def _padded(self, x: Tensor) -> Tensor:
        if self.padding == (0, 0):
            return x
        # By hand: PyTorch's pad takes what it pads with as a floating-point number.
        (B, C, H, W), (ph, pw) = x.shape, self.padding
        padded = x.new_zeros(B, C, H + 2 * ph, W + 2 * pw)
        padded[:, :, ph : ph + H, pw : pw + W] = x
        return padded


@dataclass(frozen=True)
class FixedAvgPool2d:
    """Means over windows without overlap, of 2^places pixels each.

    Args:
        kernel: the window's two sides.
        places: binary logarithm of its pixels.
    """

    kernel: tuple[int, int]
    places: int

    def __call__(self, x: Tensor, weights: Mapping[str, Tensor], saturation: Saturation) -> Tensor:
        kh, kw = self.kernel
        total = x.unfold(2, kh, kh).unfold(3, kw, kw).sum((-1, -2), dtype=torch.int32)
        return shifted(total, -self.places).to(torch.int8)  # a mean of 8-bit numbers is one


@dataclass(frozen=True)
class FixedFlatten:
    """[B, ...] -> [B, F]."""

    def __call__(self, x: Tensor, weights: Mapping[str, Tensor], saturation: Saturation) -> Tensor:
        return x.flatten(1)
