"""What a method gives, and the one call that puts it where `loss.backward()` would have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn

from forwardgrad.errors import InputError
from forwardgrad.module import ModuleObjective
from forwardgrad.objective import Objective, Params
from forwardgrad.tangents import Key


class Estimate(NamedTuple):
    """A loss and an estimate of its gradient.

    Args:
        loss: [].
        grad: name -> tensor of the parameter's shape, dense or factored; parameters the loss does not depend on are
            left out, as autograd leaves them None.
        slopes: [K], the directional derivatives measured; empty for exact methods.
        key: replays the draw; None where nothing was drawn.
        aux: what the loss function returned beside the loss.
    """

    loss: Tensor
    grad: Mapping[str, Tensor]
    slopes: Tensor
    key: Key | None
    aux: Any = None


Deliver = Callable[[str, Tensor], None]


class Method(Protocol):
    """Estimates a gradient. The one type that everything in this library has or uses."""

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        """The loss and gradient estimate at `params`.

        Args:
            objective: on the rung that the method needs.
            params: name -> tensor; never written to.
            key: names the draw; a fresh one from torch's default generator where none is given.
            into: called with (name, gradient) as soon as a layer's gradient is ready, by methods that produce them
                layer by layer; such an estimate's `grad` is then empty. Others ignore it.
        """


class Sink(Protocol):
    """Where gradients go, one parameter at a time."""

    def __call__(self, name: str, parameter: Tensor, grad: Tensor) -> None: ...


class Accumulate:
    """Adds to `p.grad`, as autograd does."""

    def __call__(self, name: str, parameter: Tensor, grad: Tensor) -> None:
        if parameter.grad is None:
            parameter.grad = grad if grad.dtype == parameter.dtype else grad.to(parameter.dtype)
        else:
            with torch.no_grad():
                parameter.grad.add_(grad)


class Collect:
    """Keeps gradients in `grads`, by name, and leaves `p.grad` alone."""

    def __init__(self) -> None:
        self.grads: dict[str, Tensor] = {}

    def __call__(self, name: str, parameter: Tensor, grad: Tensor) -> None:
        self.grads[name] = self.grads[name] + grad if name in self.grads else grad


class Apply:
    """Steps an optimizer of its own for each parameter as its gradient arrives, and drops the gradient.

    With a method that delivers layer by layer, one layer's gradient is alive at a time.

    Args:
        make_optimizer: from a list of one parameter, e.g. ``lambda p: torch.optim.SGD(p, lr=0.1)``.
    """

    def __init__(self, make_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]) -> None:
        self.make_optimizer = make_optimizer
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    def __call__(self, name: str, parameter: Tensor, grad: Tensor) -> None:
        if name not in self.optimizers:
            self.optimizers[name] = self.make_optimizer([parameter])
        parameter.grad = grad
        self.optimizers[name].step()
        parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The state of every optimizer, by parameter name."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}


def backward(
    method: Method,
    model: nn.Module,
    loss_fn: Callable[..., Any],
    *batch: Any,
    into: Sink | None = None,
    params: Iterable[str | Tensor] | None = None,
    key: Key | None = None,
    seed: int | None = None,
    generator: Generator | None = None,
    strict: bool = False,
) -> Tensor:
    """Does what ``loss_fn(model, *batch).backward()`` does, with a gradient from `method`: fills `p.grad`.

    Calling it again before `optimizer.step()` adds up, as usual. Any optimizer, clipper or scheduler follows.

    Args:
        method: for example ``fg.ForwardGradient(num_tangents=8)``.
        model: any module; DistributedDataParallel is unwrapped and its ranks averaged.
        loss_fn: ``loss_fn(model, *batch)`` returns a scalar loss or (loss, aux).
        batch: tensors, or containers of them.
        into: where gradients go: `Accumulate()` (default), `Apply(make_optimizer)` or `Collect()`.
        params: names or parameters to train; by default all with ``requires_grad``.
        key: names the draw, and replays it; by default drawn from torch's generator.
        seed: short for ``key=fg.Key(seed)``, the same tangents at every call: for training give a step too.
        generator: the torch generator from which the key is drawn.
        strict: refuse operations without a rule and values read out of tensors.

    Returns:
        The loss [], detached.

    Raises:
        ForwardGradError: bad input of any kind; weights, buffers and `p.grad` are then as they were.
    """
    if isinstance(method, type) or not callable(method):
        found = method.__name__ if isinstance(method, type) else repr(method)
        raise InputError("fg.backward needs a method object", found, "pass one, e.g. fg.ForwardGradient()")
    objective = ModuleObjective(model, loss_fn, *batch, params=params, strict=strict)
    deliver, sink = objective.params, into if into is not None else Accumulate()
    key = _key(objective, key, seed, generator)
    try:
        estimate = method(objective, objective.params, key=key, into=lambda name, grad: sink(name, deliver[name], grad))
    except BaseException:
        objective.undo()
        raise
    for name, grad in estimate.grad.items():
        sink(name, deliver[name], grad)
    return estimate.loss


def _key(objective: ModuleObjective, key: Key | None, seed: int | None, generator: Generator | None) -> Key | None:
    given = [x for x in (key, seed, generator) if x is not None]
    if len(given) > 1:
        raise InputError("a draw needs one source", "several of key, seed and generator", "give one of them")
    if seed is not None:
        key = Key(seed)
    elif generator is not None:
        key = Key.draw(generator)
    if objective.group is not None:
        key = objective.shared(key if key is not None else Key.draw())
    return key
