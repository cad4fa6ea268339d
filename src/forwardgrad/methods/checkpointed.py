"""Checkpointed backpropagation: the strongest honest rival of everything in this library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from forwardgrad.errors import RungError
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.methods.backprop import averaged, exact, tracked
from forwardgrad.module import ModuleObjective
from forwardgrad.objective import Objective, Params, finite
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key


@dataclass(frozen=True)
class CheckpointedBackprop:
    r"""The exact gradient by reverse mode, recomputing the inside of each block on the way back.

    .. math:: \hat g = \nabla f

    The blocks are the outermost members of the model's nn.ModuleList and nn.Sequential containers; a Sequential of
    single layers is cut into about :math:`\sqrt n` segments.

    Knows:     a tape (the input of each block, and the inside of one block at a time)
    Cost:      about 4 forward passes
    Memory:    block inputs, one block's activations, and a gradient as large as the model (fused: one layer's)
    Bias:      0
    Variance:  0

    Args:
        fused: hand each parameter's gradient to the sink as soon as backward has it, and drop it; with
            ``into=fg.Apply(make_optimizer)`` the optimizer steps inside backward and no gradient outlives its layer.

    Raises:
        RungError: an objective that is not a model.
        LostTangentError: the loss depends on no parameter.

    References:
        | Training Deep Nets with Sublinear Memory Cost (Chen et al., 2016), section 4, arXiv 1604.06174
        | Full Parameter Fine-tuning for Large Language Models with Limited Resources (Lv et al., 2023),
          arXiv 2306.09782
    """

    fused: bool = False

    passport: ClassVar[Passport] = Passport(
        knows="a tape (the input of each block, and the inside of one block at a time)",
        cost="about 4 forward passes",
        memory="block inputs, one block's activations, and a gradient as large as the model (fused: one layer's)",
        bias="0",
        variance="0",
        paper="Chen et al. 2016, section 4, arXiv 1604.06174; Lv et al. 2023, arXiv 2306.09782",
        rung="tape",
    )

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        if not isinstance(objective, ModuleObjective):
            raise RungError(
                "CheckpointedBackprop needs the blocks of a model",
                type(objective).__name__,
                "use fg.ModuleObjective",
            )
        grad: dict[str, Tensor] = {}
        deliver = into if self.fused and into is not None else grad.__setitem__
        with torch.enable_grad(), blocks_checkpointed(objective.model):
            leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
            for name, leaf in leaves.items():
                leaf.register_post_accumulate_grad_hook(_hand_over(name, objective, deliver))
            loss = objective.differentiate(leaves, tracked_finite)
        return exact(objective, loss, grad)


def tracked_finite(loss: Tensor) -> Tensor:
    """Checks a loss before its backward pass."""
    finite(loss.detach())
    return tracked(loss)


def _hand_over(name: str, objective: ModuleObjective, deliver: Deliver) -> Callable[[Tensor], None]:
    def hand_over(leaf: Tensor) -> None:
        grad, leaf.grad = leaf.grad, None
        assert grad is not None
        with torch.no_grad():
            deliver(name, averaged(objective, grad))

    return hand_over


def blocks(module: nn.Module) -> list[nn.Module]:
    """What is recomputed: the outermost members of containers of two or more; a row of layers as a whole."""
    if is_plain(module):
        return [module]
    if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1:
        return [block for block in dict.fromkeys(module) if any(True for _ in block.parameters())]
    return list(dict.fromkeys(block for child in module.children() for block in blocks(child)))


def is_plain(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether it is a row of mostly single layers, each of which it would save nothing to recompute alone."""
    if not isinstance(module, nn.Sequential) or len(module) < 2:
        return False
    holders = [layer for layer in module if any(True for _ in layer.parameters())]
    return 2 * sum(next(layer.children(), None) is None for layer in holders) > len(holders)


@contextmanager
def blocks_checkpointed(model: nn.Module) -> Iterator[None]:
    """Runs the blocks of a model under torch's checkpoint; puts them back whatever happens."""
    changed = [(block, block.__dict__.get("forward")) for block in blocks(model)]
    try:
        for block, _ in changed:
            block.forward = _in_segments(block) if is_plain(block) else _recomputed(block.forward)
        yield
    finally:
        for block, own in changed:
            if own is None:
                block.__dict__.pop("forward", None)
            else:
                block.forward = own


def _in_segments(container: nn.Sequential) -> Callable[..., Any]:
    """About sqrt(n) segments of n layers, each recomputed as one: the schedule of Chen et al."""
    layers = list(container)
    step = isqrt(len(layers) - 1) + 1  # the square root, rounded up

    def run(x: Any) -> Any:
        for start in range(0, len(layers), step):
            x = checkpoint(nn.Sequential.forward, container[start : start + step], x, use_reentrant=False)
        return x

    return run


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
