"""This library's rows of the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count

import torch
from torch import Tensor

import forwardgrad as fg
from bench.draws import Factors
from bench.nets import Net
from bench.rivals import Rival
from forwardgrad.module import ModuleObjective
from forwardgrad.tangents import Tangents
from forwardgrad.tangents.kinds import Dense, RankOne

SMALL = 100_000  # parameters of a net whose steps are worth compiling: Python takes longer than its layers


def as_tangents(draws: Mapping[str, Factors]) -> Tangents:
    return Tangents({n: Dense(f.left) if f.right is None else RankOne(f.left, f.right) for n, f in draws.items()})


def gradients(net: Net, method: object, into: object = None) -> Callable[[], None]:
    """Fills `p.grad` from scratch at each call, from a key of its own.

    Args:
        net: model, loss and batch.
        method: of the gradient.
        into: where it goes; None for `p.grad`.
    """
    steps = count()

    def gradient() -> None:
        net.model.zero_grad(set_to_none=True)
        fg.backward(method, net.model, net.loss_fn, *net.batch, into=into, key=fg.Key(0, next(steps)))

    return gradient


def our_rivals(net: Net, draws: Mapping[str, Factors], num_tangents: int) -> list[Rival]:
    """The forward gradient with rank-one tangents, and for one tangent the methods that take none.

    Args:
        net: model, loss and batch.
        draws: the tangents that `slopes()` pushes.
        num_tangents: K.
    """
    objective = ModuleObjective(net.model, net.loss_fn, *net.batch)
    tangents = as_tangents(draws)

    def slopes() -> Tensor:
        with torch.no_grad():
            return objective.push(objective.params, tangents).slopes

    forward = fg.ForwardGradient(num_tangents=num_tangents)
    spsa = fg.SPSA(num_tangents=num_tangents)

    def fused(lr: float) -> None:
        gradients(net, fg.CheckpointedBackprop(fused=True), fg.Apply(lambda p: torch.optim.SGD(p, lr=lr)))()

    rivals = [
        Rival("fg.ForwardGradient", slopes, gradients(net, forward)),
        Rival("fg.SPSA", None, gradients(net, spsa), exact=False),
        Rival("fg.CheckpointedBackprop", None, gradients(net, fg.CheckpointedBackprop())),
        Rival("fg.CheckpointedBackprop, fused", None, lambda: fused(0.0), moves=fused),
    ]
    if sum(p.numel() for p in objective.params.values()) < SMALL:
        steps = count()
        step = fg.CompiledBackward(forward, net.model, net.loss_fn, *net.batch)

        def compiled() -> None:
            net.model.zero_grad(set_to_none=True)
            step(*net.batch, key=fg.Key(0, next(steps)))

        # Compared with the step that was traced when it was made: an estimate is no gradient to compare here.
        rivals.append(Rival("fg.CompiledBackward", None, compiled, exact=False, counted=False))
    return rivals
