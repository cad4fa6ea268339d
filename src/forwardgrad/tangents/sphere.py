"""Directions on one sphere through the whole parameter space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from forwardgrad.tangents.collection import Tangents
from forwardgrad.tangents.gaussian import as_kind, normals
from forwardgrad.tangents.key import Key


@dataclass(frozen=True)
class Sphere:
    """v = sqrt(n) z/|z| with z Gaussian over all parameters together: uniform on the sphere of radius
    sqrt(n).

    E[v v^T] = I and |v|^2 = n, so E|g_hat - g|^2 = (n - 1)/K |g|^2, for every gradient alike.

    References:
        Flaxman, Kalai, McMahan (2005), Online convex optimization in the bandit setting.
    """

    def __call__(self, params: Mapping[str, Tensor], num_tangents: int, key: Key) -> Tangents:
        """Draws uniform directions, equal on every device up to rounding; see `Sampler`."""
        drawn = normals(params, num_tangents, key)
        n = sum(param.numel() for param in params.values())
        squares = torch.stack([numbers.double().square().sum(1) for numbers in drawn.values()]).sum(0)
        scale = (n / squares).sqrt().unsqueeze(1)
        return Tangents({name: as_kind(drawn[name] * scale.to(drawn[name].dtype), p) for name, p in params.items()})

    def second_moment(self, n: int, num_tangents: int) -> float:
        """1 + (n - 1)/K."""
        return 1 + (n - 1) / num_tangents
