"""Directions of independent signs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from forwardgrad.tangents.collection import Tangents
from forwardgrad.tangents.key import Key
from forwardgrad.tangents.kinds import Dense
from forwardgrad.tangents.protocol import admit
from forwardgrad.tangents.stream import rounded, words

_WORD_BITS = 32


@dataclass(frozen=True)
class Rademacher:
    """Every entry +1 or -1 with equal probability: E[v v^T] = I, |v|^2 = n exactly.

    Among directions with independent entries these have the least variance: E|g_hat - g|^2 = (n - 1)/K |g|^2.

    References:
        Spall (1992), Multivariate stochastic approximation using a simultaneous perturbation gradient
        approximation.
    """

    def __call__(self, params: Mapping[str, Tensor], num_tangents: int, key: Key) -> Tangents:
        """Draws +-1 in the parameters' dtypes, the same on every device; see `Sampler`."""
        device = admit(params, num_tangents)
        wanted = tuple((name, p.dtype, (p.shape,)) for name, p in params.items())
        drawn = signs(wanted, num_tangents, key, device)
        return Tangents({name: Dense(data) for name, (data,) in drawn.items()})

    def second_moment(self, n: int, num_tangents: int) -> float:
        """1 + (n - 1)/K."""
        return 1 + (n - 1) / num_tangents


class View(NamedTuple):
    """One tensor of signs inside the buffer of all signs of a dtype."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


# What each parameter wants: its name, a dtype, and the shapes of the sign tensors drawn for it, K not
# counted.
Wanted = tuple[tuple[str, torch.dtype, tuple[torch.Size, ...]], ...]


def signs(wanted: Wanted, num_tangents: int, key: Key, device: torch.device) -> dict[str, tuple[Tensor, ...]]:
    """Independent signs for every tangent of every parameter, 32 of them from each random word.

    Args:
        wanted: per parameter its name, a dtype, and the shapes of the tensors of signs it needs per tangent.
        num_tangents: K.
        key: which draw.
        device: where.

    Returns:
        name -> tensors [K, *shape] of +-1, views of one buffer per dtype.
    """
    drawn: dict[str, tuple[Tensor, ...]] = {}
    for dtype, counts, views in _layout(wanted, num_tangents):
        table, shifts = _sign_table(dtype, device)
        chosen = (words(counts, num_tangents, key, device).unsqueeze(1) >> shifts).bitwise_and_(255)
        buffer = table.index_select(0, chosen.view(-1))
        for name, own in views.items():
            drawn[name] = tuple([buffer.as_strided(*view) for view in own])
    return drawn


@lru_cache(maxsize=16)
def _layout(
    wanted: Wanted, num_tangents: int
) -> tuple[tuple[torch.dtype, tuple[tuple[str, int], ...], dict[str, list[View]]], ...]:
    """Per dtype: the words each parameter needs, and where in the buffer of signs its tensors lie.

    A tangent's words are consecutive, so each tensor is a strided view whose rows are tangents.
    """
    result = []
    for dtype in dict.fromkeys(dtype for _, dtype, _ in wanted):
        counts: list[tuple[str, int]] = []
        views: dict[str, list[View]] = {}
        offset = 0
        for name, _, shapes in (entry for entry in wanted if entry[1] == dtype):
            count = -(-sum(prod(shape) for shape in shapes) // _WORD_BITS)
            row, start = rounded(count) * _WORD_BITS, offset
            counts.append((name, count))
            views[name] = []
            for shape in shapes:
                inner = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
                views[name].append(View((num_tangents, *shape), (row, *inner), start))
                start += prod(shape)
            offset += row * num_tangents
        result.append((dtype, tuple(counts), views))
    return tuple(result)


@lru_cache(maxsize=16)
def _sign_table(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The eight signs of every byte, [256, 8], bit j for sign j; and the shifts that cut words into bytes."""
    bits = torch.arange(256).unsqueeze(1) >> torch.arange(8) & 1
    return (1 - 2 * bits).to(dtype=dtype, device=device), torch.arange(0, _WORD_BITS, 8, device=device)
