"""Statistics of slopes while a run trains: they cost a few additions a step, and no evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from forwardgrad.estimate import Deliver, Estimate, Method
from forwardgrad.objective import Objective, Params
from forwardgrad.tangents import Key


@dataclass
class Tally:
    """The slopes of all steps since the last point of the curve.

    Args:
        count: how many,
        total: their sum,
        squares: and that of their squares.
        ratio: norm of the last measured estimate over the root mean square of the slopes it came from.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    ratio: float | None = None

    @property
    def mean(self) -> float | None:
        """Mean of the slopes; about 0 for tangents that are as likely as their opposites."""
        return self.total / self.count if self.count else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation of the slopes: forward passes' own measure of the gradient's norm."""
        if self.count < 2:
            return None
        return math.sqrt(max(0.0, self.squares - self.total**2 / self.count) / (self.count - 1))

    def add(self, slopes: Tensor) -> None:
        """Counts the slopes [K] of a step."""
        for slope in slopes.tolist():
            self.count += 1
            self.total += slope
            self.squares += slope * slope

    def measure(self, estimate: Estimate) -> None:
        """Takes the norm of an estimate, which costs a pass over it, and so is for few steps.

        Where tangents have identity covariance, the mean square of the slopes is that of the gradient in expectation.
        """
        mean_square = float(estimate.slopes.double().square().mean()) if len(estimate.slopes) else 0.0
        self.ratio = norm(estimate.grad) / math.sqrt(mean_square) if mean_square else None


@dataclass(frozen=True)
class Tallied:
    """A method whose slopes are counted.

    Args:
        method: does the work.
        tally: counts.
        measured: whether the norm of the estimate is taken too.
    """

    method: Method
    tally: Tally
    measured: bool

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        estimate = self.method(objective, params, key=key, into=into)
        self.tally.add(estimate.slopes)
        if self.measured:
            self.tally.measure(estimate)
        return estimate


def norm(grads: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all parameters; factored gradients stay factored."""
    return math.sqrt(sum(float(torch.linalg.vector_norm(grad)) ** 2 for grad in grads.values()))
