"""Directions of independent normal numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from forwardgrad.tangents.collection import Tangents
from forwardgrad.tangents.key import Key
from forwardgrad.tangents.kinds import Dense
from forwardgrad.tangents.protocol import admit
from forwardgrad.tangents.stream import rounded, words


@dataclass(frozen=True)
class Gaussian:
    """Every entry standard normal: E[v v^T] = I and E|g_hat - g|^2 = (n + 1)/K |g|^2.

    References:
        Baydin, Pearlmutter, Syme, Wood, Torr (2022), Gradients without backpropagation.
    """

    def __call__(self, params: Mapping[str, Tensor], num_tangents: int, key: Key) -> Tangents:
        """Draws normal numbers, equal on every device up to rounding; see `Sampler`."""
        drawn = normals(params, num_tangents, key)
        return Tangents({name: as_kind(drawn[name], param) for name, param in params.items()})

    def second_moment(self, n: int, num_tangents: int) -> float:
        """1 + (n + 1)/K."""
        return 1 + (n + 1) / num_tangents


def normals(params: Mapping[str, Tensor], num_tangents: int, key: Key) -> dict[str, Tensor]:
    """Standard normal numbers for every tangent of every parameter, by Box and Muller's formula.

    (z, z') = sqrt(-2 log u) (cos 2 pi u', sin 2 pi u'). In float32 u has the 32 bits of one word, which
    reaches 6.7 standard deviations; in float64 it has 53 bits of two words.

    Args:
        params: name -> parameter; see `Sampler`.
        num_tangents: K.
        key: which draw.

    Returns:
        name -> [K, numel], float64 for parameters in float64, else float32.

    Raises:
        InputError: as `Sampler.__call__`.

    References:
        Box, Muller (1958), A note on the generation of random normal deviates.
    """
    device = admit(params, num_tangents)
    drawn: dict[str, Tensor] = {}
    for dtype, words_each in ((torch.float32, 1), (torch.float64, 2)):
        own = {name: p.numel() for name, p in params.items() if _arithmetic(p) == dtype}
        counts = tuple((name, words_each * count) for name, count in own.items())
        if not counts:
            continue
        uniform = _uniform(words(counts, num_tangents, key, device), dtype).view(-1, 2)
        radius, angle = (-2 * uniform[:, 0].log()).sqrt(), 2 * pi * uniform[:, 1]
        numbers = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1).view(-1)
        sizes = [num_tangents * rounded(count) // words_each for _, count in counts]
        for (name, count), part in zip(own.items(), numbers.split(sizes), strict=True):
            drawn[name] = part.view(num_tangents, -1)[:, :count]
    return drawn


def as_kind(numbers: Tensor, param: Tensor) -> Dense:
    """Numbers [K, numel] as tangents of `param`, in its shape and dtype."""
    return Dense(numbers.to(param.dtype).reshape(-1, *param.shape))


def _arithmetic(param: Tensor) -> torch.dtype:
    """The dtype in which the numbers of a parameter are computed: half precision is rounded at the end."""
    return torch.promote_types(param.dtype, torch.float32)


def _uniform(drawn: Tensor, dtype: torch.dtype) -> Tensor:
    """Words to numbers in (0, 1], one from each word in float32 and one from every two in float64."""
    if dtype == torch.float32:
        return (drawn.to(dtype) + 0.5) * 2.0**-32
    high, low = drawn.view(-1, 2).unbind(1)
    return ((high << 21 | low >> 11).to(dtype) + 0.5) * 2.0**-53
