"""Directions along single coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from forwardgrad.tangents.collection import Tangents
from forwardgrad.tangents.key import Key
from forwardgrad.tangents.kinds import Coordinate, Kind
from forwardgrad.tangents.orthonormal import check_count
from forwardgrad.tangents.protocol import admit
from forwardgrad.tangents.stream import rounded, words

# The stream of the draw: no parameter's name, for a coordinate belongs to all of them.
_STREAM = (("<coordinate>", 2),)


@dataclass(frozen=True)
class CoordinateDraw:
    """v_k = sqrt(n) e_{i_k}: K different coordinates of all parameters together, every set equally likely.

    The estimate is n/K times g on the drawn coordinates, so E|g_hat - g|^2 = (n/K - 1) |g|^2: K = n is exact.

    References:
        Nesterov (2012), Efficiency of coordinate descent methods on huge-scale optimization problems.
    """

    def __call__(self, params: Mapping[str, Tensor], num_tangents: int, key: Key) -> Tangents:
        """Draws coordinates, the same on every device; see `Sampler`.

        Raises:
            InputError: more tangents than the parameters have entries, and as `Sampler.__call__`.
        """
        device = admit(params, num_tangents)
        n = sum(param.numel() for param in params.values())
        check_count(num_tangents, n, "coordinate tangents")
        position = torch.tensor(_shuffled(n, num_tangents, key), device=device)
        kinds: dict[str, Kind] = {}
        start = 0
        for name, param in params.items():
            index = position - start
            here = (index >= 0) & (index < param.numel())
            kinds[name] = Coordinate(index * here, here.to(param.dtype) * sqrt(n), param.shape, param.dtype)
            start += param.numel()
        return Tangents(kinds)

    def second_moment(self, n: int, num_tangents: int) -> float:
        """n/K."""
        return n / num_tangents


def _shuffled(n: int, count: int, key: Key) -> list[int]:
    """The first `count` numbers of a shuffled 0 .. n-1: Fisher and Yates, remembering only the places it
    touched.

    A 64-bit word modulo the range left is uniform up to n / 2^64.
    """
    drawn = words(_STREAM, count, key, torch.device("cpu")).view(count, rounded(_STREAM[0][1])).tolist()
    moved: dict[int, int] = {}
    result = []
    for i, (low, high, *_) in enumerate(drawn):
        j = i + (high << 32 | low) % (n - i)
        result.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return result
