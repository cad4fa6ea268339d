"""Whether an inner loop can be unrolled at all: how the tangents of its state grow from step to step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from forwardgrad.bilevel.unroll import State, Unroll
from forwardgrad.errors import InputError
from forwardgrad.forward_ad import push_forward
from forwardgrad.forward_ad.dual import Dual
from forwardgrad.objective import Params
from forwardgrad.tangents import Key, Rademacher


class TangentGrowth(NamedTuple):
    """How a random tangent of the state grew.

    Args:
        norms: [T], |y_t| after each step, a root mean square over the tangents pushed.
        per_step: the factor by which a step multiplied it over the last half of the loop; 1 is neither, and above 1
            the loop forgets nothing: where it stays there, hypergradients explode with T whatever computes them.
    """

    norms: Tensor
    per_step: float


def tangent_growth(unroll: Unroll, params: Params, *, num_tangents: int = 1, key: Key | None = None) -> TangentGrowth:
    r"""Pushes random signs through an inner loop and looks at :math:`|y_t|` on the way.

    Args:
        unroll: the loop; its outer loss is not evaluated.
        params: the hyperparameters, name -> tensor.
        num_tangents: K >= 1.
        key: names the draw; a fresh one from torch's default generator where none is given.

    Raises:
        InputError: fewer than two steps.
    """
    if unroll.steps < 2:
        raise InputError("growth needs two steps or more", f"steps={unroll.steps}", "give a longer loop")
    squares: list[Tensor] = []

    def watched(state: State, hyper: Params, batch: Any) -> State:
        state = unroll.step(state, hyper, batch)
        tangents = [x.dense() for x in tree_flatten(state)[0] if type(x) is Dual]
        squares.append(torch.stack([dx.double().square().sum() / num_tangents for dx in tangents]).sum())
        return state

    def last(hyper: Params) -> Tensor:
        return torch.stack([x.sum() for x in tree_flatten(loop.unrolled(hyper))[0] if isinstance(x, Tensor)]).sum()

    loop = replace(unroll, step=watched)
    v = Rademacher()(params, num_tangents, key if key is not None else Key.draw())
    push_forward(last, dict(params), dict(v))
    norms = torch.stack(squares).sqrt()
    half = len(norms) // 2
    return TangentGrowth(norms, float((norms[-1] / norms[half - 1]) ** (1 / (len(norms) - half))))
