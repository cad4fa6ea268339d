"""Tangents for the equality checks and the rivals: drawn once per net by plain PyTorch, given to everyone.

K rank-one Rademacher tangents: v_k = a_k (x) b_k for a parameter of shape (m, *rest), entries +-1; plain
signs for vectors. Ours receives the factors, stock forward AD the same tangents written out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn


class Factors(NamedTuple):
    """One parameter's tangents: `left` [K, m] and `right` [K, *rest], or `left` [K, *shape] alone."""

    left: Tensor
    right: Tensor | None

    def dense(self) -> Tensor:
        if self.right is None:
            return self.left
        return self.left.view(*self.left.shape, *[1] * (self.right.dim() - 1)) * self.right.unsqueeze(1)


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that have a tangent, each tied one once."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def _signs(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator).mul_(2).sub_(1).to(like.dtype)


def rank_one(params: Mapping[str, Tensor], num_tangents: int, seed: int) -> dict[str, Factors]:
    """K tangents per parameter."""
    generator = Generator().manual_seed(seed)
    draws = {}
    for name, p in params.items():
        if p.dim() < 2:
            draws[name] = Factors(_signs((num_tangents, *p.shape), p, generator), None)
        else:
            left = _signs((num_tangents, p.shape[0]), p, generator)
            draws[name] = Factors(left, _signs((num_tangents, *p.shape[1:]), p, generator))
    return draws


def written_out(draws: Mapping[str, Factors]) -> dict[str, Tensor]:
    """The same tangents, [K, *shape] each."""
    return {name: factors.dense() for name, factors in draws.items()}
