"""A net in fixed-point numbers, and its loss on a batch as an objective of rung 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from forwardgrad.errors import InputError, NonFiniteError
from forwardgrad.estimate import Estimate
from forwardgrad.fixedpoint.arithmetic import STORAGE, Saturation, saturated, shifted
from forwardgrad.fixedpoint.layers import FixedLayer
from forwardgrad.fixedpoint.loss import IntegerCrossEntropy
from forwardgrad.objective import Params


@dataclass
class FixedPointNet:
    r"""A net of integers: a number is :math:`q\,2^{-e}`, one exponent e per tensor. `fg.quantise` makes it.

    Integer are weights (16 or 8 bits), activations (8 bits), accumulators, logits and losses (32 bits), perturbations
    and updates. *Scale bookkeeping* is what is left: the exponents, Python integers that are chosen once, from floats,
    when the net is made, and never change. A step adds and subtracts them to know how far to shift.

    Args:
        layers: in order; the last gives accumulators.
        weights: name -> int16 or int8, replaced by `descend`.
        exponents: name -> e.
        trained: names of the weights that move; the others are frozen.
        bits: of a weight, 8 or 16.
        input_exponent: of the input.
        output_exponent: of the logits.
        saturation: what has been clamped so far, by place.
    """

    layers: Sequence[FixedLayer]
    weights: dict[str, Tensor]
    exponents: Mapping[str, int]
    trained: tuple[str, ...]
    bits: int
    input_exponent: int
    output_exponent: int
    saturation: Saturation = field(default_factory=Saturation)

    def encode(self, x: Tensor) -> Tensor:
        """Floating-point inputs as int8, outside of any step; what does not fit is counted under "input".

        Args:
            x: [B, ...].

        Raises:
            NonFiniteError: an input is NaN or infinite.
        """
        if not bool(torch.isfinite(x).all()):
            raise NonFiniteError("a fixed-point net needs finite inputs", "NaN or infinity", "look at the batch", "x")
        q = torch.round(x * 2.0**self.input_exponent).clamp(-(2.0**31), 2.0**31 - 128).to(torch.int32)
        return saturated(q, 8, self.saturation, "input").to(torch.int8)

    def __call__(self, x: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits, int32 [B, C], with the exponent `output_exponent`.

        Args:
            x: int8 [B, ...], from `encode`.
            weights: in place of the net's own, by name; those left out are the net's.

        Raises:
            InputError: an input that is not of 8 bits.
        """
        if x.dtype != torch.int8:
            raise InputError("a fixed-point net needs inputs of 8 bits", str(x.dtype), "pass net.encode(x)", path="x")
        weights = self.weights if weights is None else {**self.weights, **weights}
        for layer in self.layers:
            x = layer(x, weights, self.saturation)
        return x

    def moved(self, weights: Params, steps: Mapping[str, Tensor], exponent: int) -> dict[str, Tensor]:
        r"""Weights plus integer steps of 2^-exponent, rounded to the weights' grids and clamped.

        Args:
            weights: integers, by name.
            steps: name -> integers, of the weights' shapes; names left out stay.
            exponent: e; where a weight's own is smaller, steps are rounded.
        """
        return {name: self._plus(name, weights[name], step, exponent) for name, step in steps.items()}

    def descend(self, estimate: Estimate, rate_exponent: int) -> None:
        r"""The update :math:`w \leftarrow w - \mathrm{round}(\eta\,\hat g)` with :math:`\eta = 2^{-r}`, in integers.

        Args:
            estimate: of `fg.SignSPSA`; its m tangents are a factor 1/m.
            rate_exponent: r. A rate below half a step of a weight's grid leaves it as it is: that is what stalls.

        Raises:
            InputError: an estimate that is not of integers, a rate that is no whole number or larger than the range of
                a weight.
        """
        if any(g.is_floating_point() for g in estimate.grad.values()):
            found, cure = "floating-point gradients", "take it from fg.SignSPSA on a fg.FixedPointObjective"
            raise InputError("descend needs an estimate of integers", found, cure)
        least = max(self.exponents[name] for name in estimate.grad) - self.bits + 1
        if isinstance(rate_exponent, bool) or not isinstance(rate_exponent, int) or rate_exponent < least:
            cure = "give r of the rate 2^-r"
            raise InputError(f"rate_exponent needs a whole number of at least {least}", repr(rate_exponent), cure)
        halvings = estimate.slopes.numel().bit_length() - 1
        self.weights |= self.moved(self.weights, {n: -g for n, g in estimate.grad.items()}, rate_exponent + halvings)

    def decoded(self) -> dict[str, Tensor]:
        """The weights as float32, which holds them exactly, by the names of the float model's parameters."""
        return {name: w.float() * 2.0 ** -self.exponents[name] for name, w in self.weights.items()}

    def _plus(self, name: str, w: Tensor, step: Tensor, exponent: int) -> Tensor:
        total = w.to(torch.int32) + shifted(step.to(torch.int32), self.exponents[name] - exponent)
        return saturated(total, self.bits, self.saturation, name).to(STORAGE[self.bits])


@dataclass(frozen=True)
class FixedPointObjective:
    """Rung 0: the summed integer loss of a fixed-point net on a batch.

    Args:
        net: the net.
        loss: of its logits.
        x: int8 [B, ...], from `net.encode`.
        y: int64 [B], labels.

    Raises:
        InputError: inputs or labels of another type or number, a label that is no class.
    """

    net: FixedPointNet
    loss: IntegerCrossEntropy
    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.x.dtype != torch.int8 or self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            found = f"{self.x.dtype} {list(self.x.shape)} and {self.y.dtype} {list(self.y.shape)}"
            raise InputError("an objective needs int8 inputs [B, ...] and int64 labels [B]", found, "see net.encode")
        if not len(self.y) or not 0 <= int(self.y.min()) <= int(self.y.max()) < self.loss.classes:
            found = f"{int(self.y.min())} to {int(self.y.max())}" if len(self.y) else "none"
            raise InputError(f"labels need to be from 0 to {self.loss.classes - 1}", found, "mend them", path="y")

    @property
    def params(self) -> dict[str, Tensor]:
        """The weights that move, by name."""
        return {name: self.net.weights[name] for name in self.net.trained}

    def __call__(self, params: Params) -> Tensor:
        """The loss [], int32, in units of 2^-14, summed over the batch."""
        logits = self.net(self.x, params)
        return self.loss(logits, self.net.output_exponent, self.y, self.net.saturation)
