"""Test functions of optimization: no data, no net, only a point that goes downhill.

The parts of the split hold one placeholder each, since a function has no samples: every step is an epoch, and the
score is the value of the function at the point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from forwardgrad.train.strict import Strict
from forwardgrad.train.tasks.sources import Nothing, Source
from forwardgrad.train.tasks.task import Batch, Score, Splits

Dimensions = Annotated[int, Field(ge=2)]


def _rates(exact: float, spsa: float, forward: float, control: float) -> dict[str, float]:
    """Learning rates by method.

    Found on the grid 1e-4, 3e-4, ..., 1: 500 steps, seeds 100 to 103, mean of the least value met; the forward gradient
    at K = 1.
    """
    return {"backprop": exact, "checkpointed": exact, "spsa": spsa, "forward": forward, "control": control}


class Place(nn.Module):
    """A point, the only parameter."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x)

    def forward(self) -> Tensor:
        """Where it is [n]."""
        return self.x


class _Function(Strict):
    epochs: ClassVar[float] = 1000
    source: ClassVar[Source] = Nothing()
    remark: ClassVar[str] = "The loss is the value of the function; there are no samples to generalise to."
    batch_size: ClassVar[int] = 1
    # Starting points are uniform on [-half_width, half_width]^n: the usual domain, except where its corners are so
    # steep that no learning rate serves them and the valley alike.
    half_width: ClassVar[float]

    def value(self, x: Tensor) -> Tensor:
        """The function at `x` [n]."""
        raise NotImplementedError

    def load(self) -> Splits:
        """A placeholder for every part."""
        return Splits(*((torch.zeros(1),) for _ in range(3)))

    def build(self, generator: Generator) -> nn.Module:
        """A starting point, uniform on a box around zero."""
        uniform = torch.rand(self._num_dimensions(), generator=generator)
        return Place(self.half_width * (2 * uniform - 1))

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """The value at the point; the batch says nothing."""
        return self.value(model())

    @torch.no_grad()
    def score(self, model: nn.Module, part: Batch) -> Score:
        """The value at the point; there is no accuracy."""
        return Score(float(self.value(model())), None)

    def _num_dimensions(self) -> int:
        return 2


class _Scalable(_Function):
    dimensions: Dimensions

    def _num_dimensions(self) -> int:
        return self.dimensions


class Sphere(_Scalable):
    """f(x) = sum_i x_i^2; least at 0, where it is 0."""

    learning_rates: ClassVar[Mapping[str, float]] = _rates(0.1, 1, 1, 0.3)
    half_width: ClassVar[float] = 5.12
    name: Literal["sphere"] = "sphere"
    dimensions: Dimensions = 10

    def value(self, x: Tensor) -> Tensor:
        """The function at `x` [n]."""
        return (x * x).sum()


class Rosenbrock(_Scalable):
    """f(x) = sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2; a bent valley, least at (1, ..., 1), where it is 0.

    References:
        | An automatic method for finding the greatest or least value of a function (Rosenbrock, 1960)
    """

    learning_rates: ClassVar[Mapping[str, float]] = _rates(0.003, 0.003, 0.003, 0.003)
    half_width: ClassVar[float] = 1.0
    name: Literal["rosenbrock"] = "rosenbrock"
    dimensions: Dimensions = 2

    def value(self, x: Tensor) -> Tensor:
        """The function at `x` [n]."""
        here, following = x[:-1], x[1:]
        return (100 * (following - here**2) ** 2 + (1 - here) ** 2).sum()


class StyblinskiTang(_Scalable):
    """f(x) = 1/2 sum_i (x_i^4 - 16 x_i^2 + 5 x_i); 2^n valleys, least at x_i = -2.9035, where it is -39.166 n."""

    learning_rates: ClassVar[Mapping[str, float]] = _rates(0.01, 0.03, 0.03, 0.01)
    half_width: ClassVar[float] = 5.0
    name: Literal["styblinski-tang"] = "styblinski-tang"
    dimensions: Dimensions = 10

    def value(self, x: Tensor) -> Tensor:
        """The function at `x` [n]."""
        squared = x * x
        return 0.5 * (squared * squared - 16 * squared + 5 * x).sum()


class Beale(_Function):
    """f(x, y) = sum_{k=1}^3 (c_k - x + x y^k)^2 with c = (1.5, 2.25, 2.625); flat, least at (3, 0.5), where it is 0."""

    learning_rates: ClassVar[Mapping[str, float]] = _rates(0.03, 0.01, 0.01, 0.01)
    half_width: ClassVar[float] = 1.0
    name: Literal["beale"] = "beale"

    def value(self, x: Tensor) -> Tensor:
        """The function at `x` [2]."""
        a, b = x[0], x[1]
        return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2
