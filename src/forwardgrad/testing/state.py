"""State: an estimate reads the model, and leaves it as one forward pass would, or as it was if something fails."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from forwardgrad.estimate import Collect, Method, backward
from forwardgrad.module import ModuleObjective
from forwardgrad.tangents import Key


class Interrupted(BaseException):
    """What `check_state` raises in the middle of a loss; like Ctrl-C it is no Exception."""


def check_state(
    method: Method,
    model: nn.Module,
    loss_fn: Callable[..., Any],
    *batch: Any,
    buffers: float = 0.0,
    key: Key = Key(0),
) -> None:
    """An estimate changes what one plain forward pass changes, and nothing else; a failing one changes nothing.

    Weights stay bit for bit, the very same tensors, with their `requires_grad` and `grad`; buffers and torch's
    generator end where one forward pass leaves them, however many evaluations the method makes.

    Args:
        method: the method.
        model: as for `fg.backward`.
        loss_fn: as for `fg.backward`.
        batch: as for `fg.backward`.
        buffers: how far buffers may be from those of one plain pass, relative; 0 for bit for bit. A method that
            runs the model at shifted weights only has some room here.
        key: the draw.

    Raises:
        AssertionError: with the name of what was disturbed.
    """
    twin = copy.deepcopy(model)
    generator = torch.get_rng_state()
    with torch.no_grad():
        loss_fn(twin, *batch)
    after = torch.get_rng_state()

    torch.set_rng_state(generator)
    weights = _weights(model)
    objective = ModuleObjective(model, loss_fn, *batch)
    copy.deepcopy(method)(objective, objective.params, key=key)
    _same_weights(method, model, weights)
    moved = not torch.equal(torch.get_rng_state(), after)
    assert not moved, f"{method!r} leaves torch's generator elsewhere than one forward pass does"
    for (name, b), expected in zip(model.named_buffers(), twin.buffers(), strict=True):
        gap = float((b.double() - expected.double()).norm())
        assert gap <= buffers * float(expected.double().norm()), (
            f"{method!r} leaves buffer `{name}` off by {gap:.2g} from what one forward pass makes of it"
        )

    weights, kept = _weights(model), {name: b.clone() for name, b in model.named_buffers()}

    def failing(model: nn.Module, *batch: Any) -> Tensor:
        loss_fn(model, *batch)
        raise Interrupted

    try:
        backward(copy.deepcopy(method), model, failing, *batch, into=Collect(), key=key)
    except Interrupted:
        pass
    else:
        raise AssertionError(f"{method!r} swallows an exception of the loss function")
    _same_weights(method, model, weights)
    for name, b in model.named_buffers():
        assert torch.equal(b, kept[name]), f"{method!r} leaves buffer `{name}` changed after an exception"
    torch.set_rng_state(generator)


def _weights(model: nn.Module) -> dict[str, tuple[Tensor, Tensor, bool, Any]]:
    return {n: (p, p.detach().clone(), p.requires_grad, p.grad) for n, p in model.named_parameters()}


def _same_weights(method: Method, model: nn.Module, before: dict[str, tuple[Tensor, Tensor, bool, Any]]) -> None:
    now = dict(model.named_parameters())
    assert now.keys() == before.keys(), (
        f"{method!r} changes the names of parameters: {sorted(now.keys() ^ before.keys())}"
    )
    for name, (p, value, requires_grad, grad) in before.items():
        assert now[name] is p, f"{method!r} puts another tensor in the place of parameter `{name}`"
        assert torch.equal(p.detach(), value), (
            f"{method!r} changes parameter `{name}` by up to {float((p.detach() - value).abs().max()):.2g}"
        )
        assert p.requires_grad is requires_grad, f"{method!r} changes requires_grad of parameter `{name}`"
        assert p.grad is grad, f"{method!r} writes .grad of parameter `{name}`, which is the sink's to write"
