"""From a trained floating-point net to a fixed-point one, by a batch to calibrate with."""

from __future__ import annotations

from collections.abc import Iterator
from math import floor, isfinite, log2
from typing import Any

import torch
from torch import Tensor, nn

from forwardgrad.errors import InputError, NonFiniteError, UnsupportedError
from forwardgrad.fixedpoint.arithmetic import STORAGE
from forwardgrad.fixedpoint.layers import (
    FixedAvgPool2d,
    FixedConv2d,
    FixedFlatten,
    FixedLayer,
    FixedLinear,
    Requantise,
)
from forwardgrad.fixedpoint.net import FixedPointNet

_ACTIVATION_BITS = 8
_MOST_BIAS_PLACES = 15  # 16 bits shifted by more leave 32

Pair = tuple[int, int]


@torch.no_grad()
def quantise(model: nn.Sequential, x: Tensor, *, weight_bits: int = 16, headroom: int = 1) -> FixedPointNet:
    """A net of integers that computes what `model` does, up to rounding.

    Every exponent is the largest one at which nothing is clamped on the batch, less `headroom` for weights. It is
    chosen here, and stays.

    Args:
        model: a row of Linear, Conv2d, ReLU, AvgPool2d, Flatten and Identity that ends in a Linear; nested rows are
            fine. It is read in eval mode, and left as it is. Parameters with requires_grad=False do not move later.
        x: [B, ...], inputs as they will come.
        weight_bits: 16 or 8.
        headroom: bits that weights may grow by before they are clamped.

    Raises:
        UnsupportedError: a layer that has no integer form here.
        InputError: other bits than 16 or 8, no inputs, a row that does not end in a Linear, sums that may leave 32
            bits.
        NonFiniteError: a weight, an input or an activation that is not finite.
    """
    if weight_bits not in (8, 16):
        raise InputError("a fixed-point net needs weights of 16 or 8 bits", repr(weight_bits), "use 16")
    if isinstance(headroom, bool) or not isinstance(headroom, int) or not 0 <= headroom < weight_bits - 1:
        raise InputError(f"headroom needs 0 to {weight_bits - 2} bits", repr(headroom), "use 1")
    if not isinstance(model, nn.Sequential):
        raise UnsupportedError("quantise needs an nn.Sequential", type(model).__name__, "write the model as a row")
    if not x.is_floating_point() or x.ndim < 2 or not x.numel():
        raise InputError("quantise needs a batch of floats", f"{x.dtype} {list(x.shape)}", "pass some inputs", path="x")
    return _Conversion(weight_bits, headroom, x).net(model)


class _Conversion:
    """Walks the row with a batch, and knows the exponent that its activations have so far."""

    def __init__(self, bits: int, headroom: int, x: Tensor) -> None:
        self.bits, self.headroom = bits, headroom
        self.x = x  # as the float model sees it
        self.exponent = exponent_of(x, _ACTIVATION_BITS, "x")
        self.layers: list[FixedLayer] = []
        self.weights: dict[str, Tensor] = {}
        self.exponents: dict[str, int] = {}
        self.trained: list[str] = []
        self.owned: set[int] = set()
        self.rectified = False  # whether the last layer has been clamped at zero already

    def net(self, model: nn.Sequential) -> FixedPointNet:
        x, input_exponent = self.x, self.exponent
        row = [(path, layer) for path, layer in _row(model) if not isinstance(layer, nn.Identity)]
        if not row or not isinstance(row[-1][1], nn.Linear):
            found, cure = type(row[-1][1]).__name__ if row else "an empty row", "leave a softmax to the loss"
            raise InputError("a fixed-point net needs to end in an nn.Linear, whose sums are the logits", found, cure)
        followers: list[nn.Module | None] = [layer for _, layer in row[1:]]
        for (path, layer), follower in zip(row, [*followers, None], strict=True):
            self._add(path, layer, follower)
        net = FixedPointNet(
            self.layers, self.weights, self.exponents, tuple(self.trained), self.bits, input_exponent, self.exponent
        )
        net(net.encode(x))
        full = [place for place, count in net.saturation.counts().items() if count and place.endswith("accumulator")]
        if full:
            cure = f"raise headroom above {self.headroom}, or make the layer narrower"
            raise InputError("a layer needs sums that stay within 32 bits", "longer ones", cure, path=full[0])
        net.saturation.clear()
        return net

    def _add(self, path: str, layer: nn.Module, follower: nn.Module | None) -> None:
        match layer:
            case nn.Linear():
                self.layers.append(self._affine(path, layer, follower))
            case nn.Conv2d():
                linear = self._affine(path, layer, follower)
                kernel, stride, padding = _window(path, layer)
                self.layers.append(FixedConv2d(linear, kernel, stride, padding))
            case nn.AvgPool2d():
                self.layers.append(_pool(path, layer))
                self.x = layer(self.x)
            case nn.Flatten(start_dim=1, end_dim=-1):
                self.layers.append(FixedFlatten())
                self.x = self.x.flatten(1)
            case nn.ReLU() if self.rectified:
                pass  # done where its input was rounded
            case _:
                raise UnsupportedError("quantise needs layers with an integer form", str(layer), _cure(layer), path)
        self.rectified = isinstance(layer, nn.Linear | nn.Conv2d) and isinstance(follower, nn.ReLU)

    def _affine(self, path: str, layer: nn.Linear | nn.Conv2d, follower: nn.Module | None) -> FixedLinear:
        weight = self._store(f"{path}.weight", layer.weight, None)
        sums = weight + self.exponent
        bias_places = None
        if layer.bias is not None:
            bias_places = sums - self._store(f"{path}.bias", layer.bias, sums)
            if bias_places > _MOST_BIAS_PLACES:
                found, cure = f"{float(layer.bias.abs().max()):g}", "scale the layer's inputs up, or its biases down"
                raise InputError("a bias needs to fit into the sums of its layer", found, cure, path=f"{path}.bias")
        self.x = layer(self.x)
        relu = isinstance(follower, nn.ReLU)
        self.x = self.x.relu() if relu else self.x
        if follower is None:
            self.exponent = sums
            return FixedLinear(path, bias_places, None)
        self.exponent = exponent_of(self.x, _ACTIVATION_BITS, path)
        return FixedLinear(path, bias_places, Requantise(self.exponent - sums, relu))

    def _store(self, name: str, p: Tensor, most: int | None) -> int:
        """Keeps a parameter as integers and returns its exponent, at most `most`."""
        if id(p) in self.owned:
            raise UnsupportedError("quantise needs weights with one place", "some used twice", "copy them", path=name)
        self.owned.add(id(p))
        e = exponent_of(p, self.bits, name) - self.headroom
        e = e if most is None else min(e, most)
        self.weights[name] = torch.round(p.detach().double() * 2.0**e).to(STORAGE[self.bits])
        self.exponents[name] = e
        if p.requires_grad:
            self.trained.append(name)
        return e


def exponent_of(x: Tensor, bits: int, path: str) -> int:
    """The largest e at which no entry of x 2^e leaves so many bits.

    Args:
        x: any shape; where it is all zero, numbers up to 1 shall fit.
        bits: sign included.
        path: of x, for messages.

    Raises:
        NonFiniteError: an entry is not finite.
    """
    largest = float(x.abs().max())
    if not isfinite(largest):
        raise NonFiniteError("quantise needs finite numbers", f"{largest}", "look at the model and the batch", path)
    return floor(log2(((1 << (bits - 1)) - 1) / largest)) if largest > 0 else bits - 2


def _row(model: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, layer in model._modules.items():
        if isinstance(layer, nn.Sequential):
            yield from _row(layer, f"{prefix}{name}.")
        elif layer is not None:
            yield f"{prefix}{name}", layer


def _window(path: str, layer: nn.Conv2d) -> tuple[Pair, Pair, Pair]:
    plain = (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")
    if not plain or isinstance(layer.padding, str):
        cure = "use groups=1, dilation=1 and padding with zeros given in numbers"
        raise UnsupportedError("quantise needs plain convolutions", str(layer), cure, path)
    kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
    return (kernel[0], kernel[1]), (stride[0], stride[1]), (padding[0], padding[1])


def _pool(path: str, layer: nn.AvgPool2d) -> FixedAvgPool2d:
    kernel, stride, padding = (_pair(size) for size in (layer.kernel_size, layer.stride, layer.padding))
    pixels = kernel[0] * kernel[1]
    if pixels & (pixels - 1) or stride != kernel or padding != (0, 0) or layer.ceil_mode or layer.divisor_override:
        cure = "use windows of 2, 4, 8 or more pixels, a power of two, side by side and without padding"
        raise UnsupportedError("quantise needs pools whose means are shifts", str(layer), cure, path)
    return FixedAvgPool2d(kernel, pixels.bit_length() - 1)


def _pair(size: Any) -> Pair:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _cure(layer: nn.Module) -> str:
    cures: dict[type, str] = {
        nn.BatchNorm2d: "fold it into the convolution before it with torch.nn.utils.fuse_conv_bn_eval",
        nn.Dropout: "leave it out: noise of its own would drown a perturbation's",
        nn.MaxPool2d: "use nn.AvgPool2d",
        nn.ReLU: "put it right behind an nn.Linear or an nn.Conv2d",
        nn.Flatten: "flatten all but the batch: nn.Flatten()",
    }
    return cures.get(type(layer), "use Linear, Conv2d, ReLU, AvgPool2d and Flatten")
