"""Outer products of signs: the default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from forwardgrad.tangents.collection import Tangents
from forwardgrad.tangents.key import Key
from forwardgrad.tangents.kinds import Dense, RankOne
from forwardgrad.tangents.protocol import admit
from forwardgrad.tangents.rademacher import signs


@dataclass(frozen=True)
class RankOneRademacher:
    """v = a (x) b with independent signs a [m] and b [*rest], for a parameter of shape (m, *rest).

    Vectors and scalars get plain signs. The entries a_i b_j are +-1 and pairwise independent, so E[v v^T] = I
    and |v|^2 = n: the variance is that of dense signs, E|g_hat - g|^2 = (n - 1)/K |g|^2, while a tangent
    takes m + prod(rest) numbers and is pushed forward by matrix-vector products.

    References:
        Spall (1992), Multivariate stochastic approximation using a simultaneous perturbation gradient
        approximation, for signs; their outer product is this library's.
    """

    def __call__(self, params: Mapping[str, Tensor], num_tangents: int, key: Key) -> Tangents:
        """Draws +-1 in the parameters' dtypes, the same on every device; see `Sampler`."""
        device = admit(params, num_tangents)
        wanted = tuple((name, p.dtype, _factors(p.shape)) for name, p in params.items())
        drawn = signs(wanted, num_tangents, key, device)
        return Tangents({name: RankOne(*own) if len(own) == 2 else Dense(*own) for name, own in drawn.items()})

    def second_moment(self, n: int, num_tangents: int) -> float:
        """1 + (n - 1)/K."""
        return 1 + (n - 1) / num_tangents


def _factors(shape: torch.Size) -> tuple[torch.Size, ...]:
    """The shapes of a and b for a matrix or a kernel, the shape itself for a vector or a scalar."""
    return (shape[:1], shape[1:]) if len(shape) > 1 else (shape,)
