"""The hypergradient of the last steps of a loop alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from forwardgrad.bilevel import Unroll
from forwardgrad.errors import InputError
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.methods.backprop import Backprop
from forwardgrad.objective import Objective, Params
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key


@dataclass(frozen=True)
class TruncatedUnroll:
    r"""Reverse unrolling of the last s steps; what hyperparameters did before them counts as given.

    .. math:: \hat g = \partial_\theta f \sum_{t = T-s+1}^{T} A_T \cdots A_{t+1} B_t + \partial_\varphi f,
        \qquad A_t = \partial_\theta \Omega_t, \; B_t = \partial_\varphi \Omega_t

    Knows:     a tape (of the last s steps)
    Cost:      T - s steps, and about 3 s
    Memory:    s states with their tapes
    Bias:      what the first T - s steps contribute; it falls as the loop forgets
    Variance:  0

    Args:
        window: s >= 1; the whole loop where that is shorter.

    Raises:
        InputError: s < 1; when called, an objective that is no `Unroll`.

    References:
        | Memory-Efficient Gradient Unrolling for Large-Scale Bi-level Optimization (Shen et al., 2024), there TRGU,
          arXiv 2406.14095
    """

    window: int = 1

    passport: ClassVar[Passport] = Passport(
        knows="a tape (of the last s steps)",
        cost="T - s steps, and about 3 s",
        memory="s states with their tapes",
        bias="what the first T - s steps contribute; it falls as the loop forgets",
        variance="0",
        paper="Shen et al. 2024, arXiv 2406.14095",
        rung="tape",
    )

    def __post_init__(self) -> None:
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            cure = "keep one step or more"
            raise InputError("window needs a whole number of at least 1", repr(self.window), cure)

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        unroll = looped(objective, "a truncated hypergradient")
        skipped = max(0, unroll.steps - self.window)
        if skipped:
            with torch.no_grad():
                state = replace(unroll, steps=skipped).unrolled(params)
            batch = None if unroll.batch is None else later(unroll.batch, skipped)
            unroll = replace(unroll, start=state, steps=unroll.steps - skipped, batch=batch)
        return Backprop()(unroll, params)


def later(batch: Callable[[int], Any], skipped: int) -> Callable[[int], Any]:
    """The batches from step `skipped` on."""
    return lambda t: batch(t + skipped)


def looped(objective: Objective, what: str) -> Unroll:
    """The objective, which must be a loop.

    Raises:
        InputError: it is another one.
    """
    if not isinstance(objective, Unroll):
        cure = "write the inner loop as fg.Unroll(step, start, outer, steps)"
        raise InputError(f"{what} needs an unrolled loop", type(objective).__name__, cure)
    return objective
