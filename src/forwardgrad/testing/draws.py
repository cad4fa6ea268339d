"""Many draws of a method, laid out as vectors.

Legend: S seeds, N draws of each, n parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from forwardgrad.estimate import Method
from forwardgrad.gradient import FactoredGradient
from forwardgrad.methods import Backprop
from forwardgrad.objective import Objective, Params
from forwardgrad.tangents import Key


class Draws(NamedTuple):
    """What a method gave, and what there was to estimate.

    Args:
        estimates: [S, N, n] in float64.
        gradient: [n] in float64.
    """

    estimates: Tensor
    gradient: Tensor


def draws_of(
    method: Method,
    objective: Objective,
    params: Params,
    exact: Mapping[str, Tensor] | None,
    draws: int,
    seeds: Sequence[int],
) -> Draws:
    """S x N independent estimates; a method that remembers starts each of them from the same memory.

    Args:
        method: the method.
        objective: the objective.
        params: where.
        exact: the gradient; None to have it from backprop.
        draws: N.
        seeds: S seeds; draw i of seed s has the key (s, i).
    """
    given = exact if exact is not None else Backprop()(objective, params).grad
    rows = [
        torch.stack([flat(copy.deepcopy(method)(objective, params, key=Key(s, i)).grad, params) for i in range(draws)])
        for s in seeds
    ]
    return Draws(torch.stack(rows), flat(given, params))


def flat(grad: Mapping[str, Tensor], params: Params) -> Tensor:
    """A gradient as one vector [n] in float64, in the order of `params`; a parameter left out counts as zero."""
    parts = []
    for name, p in params.items():
        g = grad.get(name)
        if g is None:
            parts.append(torch.zeros(p.numel(), dtype=torch.float64))
            continue
        assert g.shape == p.shape, (
            f"the gradient of `{name}` has shape {tuple(g.shape)}, the parameter {tuple(p.shape)}"
        )
        g = g.densify() if isinstance(g, FactoredGradient) else g
        parts.append(g.detach().to("cpu", torch.float64).reshape(-1))
    return torch.cat(parts)
