"""Small problems on which the laws are known: a bowl with a closed form, a net with state, a tower to count on."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from forwardgrad.module import ModuleObjective

BOWL = 54
"""n, the number of parameters of `bowl`."""


@dataclass(frozen=True)
class Problem:
    """A model, a loss and a batch.

    Args:
        model: any module.
        loss_fn: ``loss_fn(model, *batch)``.
        batch: tensors.
    """

    model: nn.Module
    loss_fn: Callable[..., Any]
    batch: tuple[Any, ...]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """(model, loss_fn, *batch), as `fg.backward` takes them after the method."""
        return self.model, self.loss_fn, *self.batch

    @property
    def objective(self) -> ModuleObjective:
        """The same as an objective."""
        return ModuleObjective(*self.arguments)

    def doubled(self) -> Problem:
        """A copy in float64; what is not a number of floating point, labels say, stays as it is."""
        wide = tuple(x.double() if x.is_floating_point() else x for x in self.batch)
        return Problem(deepcopy(self.model).double(), self.loss_fn, wide)


def bowl() -> Problem:
    r"""A linear regression whose loss is :math:`f(\theta) = \tfrac12 |\theta - \theta^*|^2`, n = 54, in float64.

    Its inputs are columns of a Hadamard matrix, orthogonal to each other and to the bias, so the gradient is
    :math:`\theta - \theta^*` and the Hessian I: every law of a step holds exactly. All entries of the gradient are
    positive at the start, so that tangents whose mean is not zero show.
    """
    generator = Generator().manual_seed(0)
    signs = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    x = signs[:, 1:9]
    model = nn.utils.skip_init(nn.Linear, 8, 6, dtype=torch.float64)
    target = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    start = target + 0.2 + torch.rand(6, 9, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(start[:, :8])
        model.bias.copy_(start[:, 8])
    return Problem(model, half_mean_square, (x, x @ target[:, :8].T + target[:, 8]))


class Lump(nn.Module):
    r"""A surrogate's net for any size, :math:`\tfrac a2 |x - m|^2` with a and m to be learned."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.m = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.a / 2 * (x - self.m).square().sum(-1)


def half_mean_square(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Half the squared distance, summed over outputs and averaged over the batch."""
    return (model(x) - y).square().sum(1).mean() / 2


def net(dropout: float = 0.0) -> Problem:
    """A net with everything that a step may disturb: batch statistics, dropout, a frozen weight; in float32.

    Args:
        dropout: its rate; 0 where nothing may be drawn.
    """
    generator = Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(8, 8),
            nn.GELU(),
            nn.Linear(8, 3),
        )
    model[4].bias.requires_grad_(False)
    batch = torch.randn(24, 6, generator=generator), torch.randint(3, (24,), generator=generator)
    return Problem(model, cross_entropy, batch)


def tower(layers: int = 8, width: int = 48, rows: int = 32) -> Problem:
    """Equal linear layers, deep enough that what the first layer saves is small.

    Args:
        layers: how many.
        width: of each.
        rows: of the batch.
    """
    generator = Generator().manual_seed(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(layers)))
    batch = torch.randn(rows, width, generator=generator), torch.randint(width, (rows,), generator=generator)
    return Problem(model, cross_entropy, batch)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of the model's logits."""
    return F.cross_entropy(model(x), y)
