"""Coupling blocks: invertible whatever the networks inside them are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from forwardgrad.errors import InputError


class Mix(Protocol):
    """How a network's output changes the half that it did not see: w = scale * u + shift."""

    def __call__(self, made: Tensor) -> tuple[Tensor | None, Tensor]:
        """(scale, shift) out of what the network made; None for a scale of 1."""


@dataclass(frozen=True)
class Additive:
    """w = u + f(v): f keeps the shape of its half."""

    def __call__(self, made: Tensor) -> tuple[Tensor | None, Tensor]:
        return None, made


@dataclass(frozen=True)
class Affine:
    r"""w = exp(b tanh a) u + t with (a, t) = f(v): f doubles the channels of its half, first a, then t.

    Args:
        bound: b, the largest log-scale; it bounds what the inverse multiplies errors by.
    """

    bound: float = 0.5

    def __call__(self, made: Tensor) -> tuple[Tensor | None, Tensor]:
        a, shift = made.chunk(2, 1)
        return torch.exp(self.bound * torch.tanh(a)), shift


class Coupling(nn.Module):
    r"""Half the channels change by what a network makes of the other half, then the other way round.

    .. math:: y_1 = s_f(x_2) \odot x_1 + t_f(x_2), \qquad y_2 = s_g(y_1) \odot x_2 + t_g(y_1)

    Args:
        f: from half the channels (dimension 1) to what `mix` reads.
        g: likewise.
        mix: `Additive()`, of which s = 1, or `Affine()`.

    Raises:
        InputError: when called, an odd number of channels, or a network that does not give what `mix` reads.
    """

    def __init__(self, f: nn.Module, g: nn.Module, mix: Mix = Additive()) -> None:
        super().__init__()
        self.f, self.g, self.mix = f, g, mix

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 2C, ..] -> y of the same shape."""
        x1, x2 = halves(x)
        y1 = mixed(x1, *self.terms(self.f, x2))
        y2 = mixed(x2, *self.terms(self.g, y1))
        return torch.cat([y1, y2], 1)

    def inverse(self, y: Tensor) -> Tensor:
        """y [B, 2C, ..] -> x of the same shape."""
        y1, y2 = halves(y)
        x2 = unmixed(y2, *self.terms(self.g, y1))
        x1 = unmixed(y1, *self.terms(self.f, x2))
        return torch.cat([x1, x2], 1)

    def terms(self, network: nn.Module, v: Tensor) -> tuple[Tensor | None, Tensor]:
        """Scale (None for 1) and shift that a network makes of one half."""
        scale, shift = self.mix(network(v))
        if shift.shape != v.shape:
            raise InputError(
                f"a coupling of halves {list(v.shape)} needs shifts of that shape",
                f"{list(shift.shape)}",
                "let its networks keep the shape (Additive) or double the channels (Affine)",
            )
        return scale, shift


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of dimension 1.

    Raises:
        InputError: its size is odd.
    """
    if x.ndim < 2 or x.shape[1] % 2:
        raise InputError(
            "a coupling needs an even number of channels in dimension 1", f"shape {list(x.shape)}", "add a channel"
        )
    first, second = x.chunk(2, 1)
    return first, second


def mixed(u: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
    """The half u, scaled and shifted."""
    return u + shift if scale is None else scale * u + shift


def unmixed(w: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
    """The u of which w is mixed."""
    return w - shift if scale is None else (w - shift) / scale
