"""Putting the shorter ways of layers in the places of their own, for the length of a push."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from forwardgrad.forward_ad.whole.table import Short, short_of

# What the trials said, class by class: a fact about two pieces of code, found once.
AGREE: WeakKeyDictionary[type[nn.Module], bool] = WeakKeyDictionary()
_RANDOM = 1 << 20  # entries of a weight up to which a trial draws another: LoRA's B is zero at first, and shows nothing


class Taken(NamedTuple):
    """A layer and its shorter way."""

    layer: nn.Module
    short: Short


def wholes(modules: Sequence[nn.Module]) -> list[Taken]:
    """The layers among these that have a shorter way with the same value.

    Args:
        modules: of a model; each class is tried once, on two rows of its own.
    """
    kinds: list[Any] = [type(m) for m in modules]
    shorts = zip(modules, map(short_of, kinds), strict=True)
    found = [Taken(m, short) for m, short in shorts if short is not None and "forward" not in m.__dict__]
    return [taken for taken in found if agrees(taken)]


@contextmanager
def taking(wholes: Iterable[Taken]) -> Iterator[None]:
    """Inside, these layers go their shorter ways; whatever hooks they have are called as ever."""
    taken: list[nn.Module] = []
    try:
        for layer, short in wholes:
            layer.forward = either(layer, short, layer.forward)
            taken.append(layer)
        yield
    finally:
        for layer in taken:
            del layer.forward


def either(layer: nn.Module, short: Short, own: Callable[..., Any]) -> Callable[..., Any]:
    """The layer's forward: the shorter way where it is one, its own where it is called in another manner."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        plain = len(args) == 1 and not kwargs and not torch._C._is_any_autocast_enabled()
        y = short(layer, args[0]) if plain else NotImplemented
        return own(*args, **kwargs) if y is NotImplemented else y

    return forward


def agrees(taken: Taken) -> bool:
    """Whether both ways give the same on two rows, with other weights than the layer's own."""
    kind = type(taken.layer)
    if kind not in AGREE:
        verdict = _tried(*taken)
        if verdict is None:
            return False
        AGREE[kind] = verdict
    return AGREE[kind]


@torch.no_grad()
def _tried(layer: nn.Module, short: Short) -> bool | None:
    """What a trial says; None where this layer, as it stands, is not the plain case or somebody watches it."""
    if _has_any_global_hook() or any(m._forward_hooks or m._forward_pre_hooks for m in layer.modules()):
        return None
    weights = [p for p in layer.parameters() if p.is_floating_point()]
    like = min(weights, key=Tensor.numel) if weights else torch.empty(64)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, getattr(layer, "in_features", like.shape[-1]), generator=draw).to(like)
    with other_weights(layer, draw):
        try:
            own, other = type(layer).forward(layer, x), short(layer, x)
        except Exception:  # a class of another build than the one known here: its own way is always right
            return False
    if other is NotImplemented:
        return None
    if not isinstance(own, Tensor) or (own.shape, own.dtype) != (other.shape, other.dtype):
        return False
    rounding = max(4 * torch.finfo(own.dtype).eps, 4e-6)  # kernels of float32 differ in their last digits
    return bool((own - other).abs().max() <= rounding * own.abs().max())


@contextmanager
def other_weights(layer: nn.Module, draw: torch.Generator) -> Iterator[None]:
    """Inside, nothing drops out, and random weights stand in the places of all that are not large."""
    modules = list(layer.modules())
    places = [
        (module, name, p)
        for module in modules
        for name, p in module._parameters.items()
        if p is not None and p.is_floating_point() and p.numel() <= _RANDOM
    ]
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        for module, name, p in places:
            other = torch.randn(p.shape, generator=draw).to(p) / p.shape[-1] ** 0.5
            module._parameters[name] = nn.Parameter(other, requires_grad=False)
        yield
    finally:
        for module, name, p in places:
            module._parameters[name] = p
        for module, before in zip(modules, training, strict=True):
            module.training = before
