"""The rivals, each on the same unmodified net.

A rival is two pieces of work. `slopes()` pushes tangents that were drawn before and returns [K]; backprop has
none. `gradient()` is what a training step waits for: draw, push, combine, `p.grad` filled from scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from bench.draws import Factors, trainable, written_out
from bench.mezo import Mezo
from bench.nets import Net


@dataclass(frozen=True)
class Rival:
    """Args:
    name: its row in the tables.
    slopes: pushes the given tangents, [K]; None for methods without slopes.
    gradient: draws, pushes and fills `p.grad`.
    exact: slopes are derivatives, and not differences.
    tolerance: of its gradient against backprop's, relative, where it has no slopes to compare.
    counted: its memory is allocated where storages can be counted, which that of compiled code is not.
    moves: steps the weights by plain SGD at a given rate; for methods that leave no gradient to compare.
    """

    name: str
    slopes: Callable[[], Tensor] | None
    gradient: Callable[[], None]
    exact: bool = True
    tolerance: float = 1e-4
    counted: bool = True
    moves: Callable[[float], None] | None = None


class Objective(nn.Module):
    """(model, loss_fn, batch) as one function of the parameters, for stock transforms."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.model, self.loss_fn, self.batch = net
        self.params = {f"model.{name}": p for name, p in trainable(self.model).items()}

    def forward(self) -> Tensor:
        return self.loss_fn(self.model, *self.batch)

    def at(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Tensor:
        return functional_call(self, {**params, **buffers}, ())

    def fill(self, grads: Mapping[str, Tensor]) -> None:
        for name, p in self.named_parameters():
            p.grad = grads.get(name)

    def copies(self) -> dict[str, Tensor]:
        """Of the buffers, made inside the transform: torch.func cannot move BatchNorm's own ones."""
        return {name: buffer.clone() for name, buffer in self.named_buffers()}


def stock(objective: Objective, tangents: dict[str, Tensor]) -> Tensor:
    """torch.func.jvp for K = 1, vmap of it for more; attention on the one backend that has a formula."""

    def push(tangent: dict[str, Tensor]) -> Tensor:
        return jvp(lambda p: objective.at(p, objective.copies()), (objective.params,), (tangent,))[1]

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        if next(iter(tangents.values())).shape[0] == 1:
            return push({name: t[0] for name, t in tangents.items()})[None]
        return vmap(push, randomness="same")(tangents)


def _duals(objective: Objective, tangents: dict[str, Tensor]) -> Tensor:
    """torch.autograd.forward_ad, one pass per tangent."""
    slopes = []
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for k in range(next(iter(tangents.values())).shape[0]):
            with fwAD.dual_level():
                duals = {n: fwAD.make_dual(p, tangents[n][k]) for n, p in objective.params.items()}
                slopes.append(fwAD.unpack_dual(objective.at(duals, {})).tangent)
    return torch.stack(slopes)


def _gaussian(objective: Objective, num_tangents: int) -> dict[str, Tensor]:
    return {name: p.new_empty(num_tangents, *p.shape).normal_() for name, p in objective.params.items()}


def _forward_gradient(objective: Objective, num_tangents: int, push: Callable[..., Tensor]) -> None:
    """Draws Gaussian tangents (PyTorch's cheapest dense ones), pushes, leaves mean_k c_k v_k in `p.grad`."""
    tangents = _gaussian(objective, num_tangents)
    weights = push(objective, tangents) / num_tangents
    if num_tangents == 1:
        objective.fill({name: t[0].mul_(weights[0]) for name, t in tangents.items()})
    else:
        objective.fill({name: torch.tensordot(weights, t, 1) for name, t in tangents.items()})


def _backprop(objective: Objective) -> None:
    objective.fill({})
    objective().backward()


@contextmanager
def _checkpointed(blocks: list[nn.Module]) -> Iterator[None]:
    """Every block forgets its activations and computes them again in the backward pass."""
    for block in blocks:
        block.forward = _recomputed(block.forward)  # on the instance: the class is left alone
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _recomputed(forward: Callable) -> Callable:
    return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated layers: the longest list of a transformer, else the children of a sequential net."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if lists:
        return list(max(lists, key=len))
    return [child for child in model.children() if any(True for _ in child.parameters())]


def _fused(objective: Objective, lr: float) -> None:
    """Every weight moves as soon as its gradient is there, and the gradient is let go."""

    @torch.no_grad()
    def move(p: Tensor) -> None:
        p.add_(p.grad, alpha=-lr)
        p.grad = None

    objective.fill({})
    hooks = [p.register_post_accumulate_grad_hook(move) for p in objective.parameters() if p.requires_grad]
    try:
        objective().backward()
    finally:
        for hook in hooks:
            hook.remove()


def stock_rivals(net: Net, draws: Mapping[str, Factors], num_tangents: int) -> list[Rival]:
    """Everything there is without this library.

    Args:
        net: model, loss and batch.
        draws: the tangents that `slopes()` pushes.
        num_tangents: K.
    """
    objective = Objective(net)
    tangents = {f"model.{name}": t for name, t in written_out(draws).items()}
    name = "torch.func.jvp" if num_tangents == 1 else "vmap(torch.func.jvp)"
    blocks = blocks_of(net.model)

    def checkpointed() -> None:
        with _checkpointed(blocks):
            _backprop(objective)

    def fused(lr: float) -> None:
        with _checkpointed(blocks):
            _fused(objective, lr)

    rivals = [
        Rival(
            name,
            lambda: stock(objective, tangents),
            lambda: _forward_gradient(objective, num_tangents, stock),
        ),
        Rival(
            "forward_ad duals" if num_tangents == 1 else "loop of forward_ad duals",
            lambda: _duals(objective, tangents),
            lambda: _forward_gradient(objective, num_tangents, _duals),
        ),
        Rival("backprop", None, lambda: _backprop(objective)),
        Rival("checkpointed backprop", None, checkpointed),
        Rival("checkpointed backprop, update fused", None, lambda: fused(0.0), moves=fused),
    ]
    if num_tangents == 1:  # it draws and perturbs K times over: its cost is K times this
        rivals.append(_mezo(objective))
    return rivals


def _mezo(objective: Objective) -> Rival:
    mezo, seed = Mezo(objective.params, objective), 0

    def filled() -> None:
        objective.fill(mezo.gradient(mezo.slope(seed), seed))

    return Rival("MeZO", lambda: mezo.slope(seed)[None], filled, exact=False)
