"""A net with something done to what is between its two layers, for the tests of what may be done there."""

from __future__ import annotations

import torch
from torch import nn

from forwardgrad.module import ModuleObjective
from forwardgrad.tangents import Tangents
from forwardgrad.tangents.kinds import Dense


class Net(nn.Module):
    """Two layers, with something done to what is between them."""

    def __init__(self, between=lambda h: h) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Linear(4, 4), nn.Linear(4, 1), Between(between)

    def forward(self, x):
        return self.second(self.between(self.first(x))).sum()


class Between(nn.Module):
    def __init__(self, f) -> None:
        super().__init__()
        self.f = f

    def forward(self, h):
        return self.f(h)


def push_net(net: nn.Module, strict: bool = False, k: int = 2):
    objective = ModuleObjective(net, lambda m, x: m(x), torch.randn(5, 4), strict=strict)
    v = {n: Dense(torch.randn(k, *p.shape, dtype=p.dtype)) for n, p in objective.params.items()}
    return objective.push(objective.params, Tangents(v))
