"""A whole step traced once and compiled: draw, push and combination as one graph, for nets of small layers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from forwardgrad.errors import InputError, NonFiniteError, UnsupportedError
from forwardgrad.estimate import Estimate, backward
from forwardgrad.gradient import FactoredGradient
from forwardgrad.methods import ForwardGradient
from forwardgrad.module import ModuleObjective
from forwardgrad.module.replay import Randomness
from forwardgrad.slopes import Jvp, slope
from forwardgrad.tangents import Key
from forwardgrad.tangents.stream import Placed, place_of

# By how much the compiled step may differ from the one that was traced, relative to the gradient.
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
_PROOF = (Key(0x5EED, 1), Key(0x1DEA, 2**32 + 7))  # two draws on which the graph is compared


class CompiledBackward:
    """What `fg.backward` does for one model, one loss function and one shape of batch, without Python in between.

    Small layers take less time than Python takes to dispatch them; here all of a step is one compiled function. It
    reads parameters and buffers as they are at each call. What Python decided while the step was traced stays decided:
    flags, numbers that are not tensors, which way an `if` went.

    Args:
        method: along pushed tangents.
        model: without dropout or batch statistics at work; `model.eval()` switches them off.
        loss_fn: as for `fg.backward`; what it returns beside the loss is dropped.
        batch: of the shapes and dtypes to come. Nothing is trained on it.

    Raises:
        InputError: another method, finite differences, an active autocast, a distributed model.
        UnsupportedError: a step that draws random numbers beside the tangents, writes into buffers or looks at values,
            no compiler, or a graph that does not give what the step gave.

    Note:
        The gradient comes dense. Compiling takes some seconds to a minute, and needs a C++ compiler on a CPU.
    """

    def __init__(self, method: ForwardGradient, model: nn.Module, loss_fn: Callable[..., Any], *batch: Any) -> None:
        if not isinstance(method, ForwardGradient) or not isinstance(slope(method.slope), Jvp):
            cure = "use fg.ForwardGradient with pushed slopes, or fg.backward"
            raise InputError("a compiled step needs tangents that are pushed", repr(method), cure)
        self.method, self.model, self.loss_fn = method, model, loss_fn
        self._objective = objective = ModuleObjective(model, loss_fn, *batch)
        if objective.group is not None:
            raise InputError("a compiled step needs one process", "DistributedDataParallel", "use fg.backward")
        if torch.is_autocast_enabled(objective.device.type):
            cure = "put autocast into the loss function, or compile outside it"
            raise InputError("a compiled step needs autocast to be its own", "one around it", cure)
        leaves, self._spec = tree_flatten(batch)
        self._constants = [None if isinstance(x, Tensor) else x for x in leaves]
        self._shape = _shape(leaves, objective.modules)
        self._held = _Held(objective)
        _check_repeatable(objective)
        true = [method(objective, objective.params, key=key) for key in _PROOF]
        self._trained = {name: p for name, p in objective.params.items() if name in true[0].grad}
        self._run = self._compiled(leaves)
        self._prove(leaves, true)

    def __call__(self, *batch: Any, key: Key | None = None) -> Tensor:
        """The loss [], detached; adds the gradient to `p.grad`, as `fg.backward` does.

        A batch of another shape, such as the last one of an epoch, or a model in another mode goes through
        `fg.backward` itself.

        Args:
            batch: as the one that was traced.
            key: names the draw; a fresh one from torch's default generator where none is given.

        Raises:
            NonFiniteError: the loss or a slope; `p.grad` is then as it was.
        """
        leaves, _ = tree_flatten(batch)
        key = key if key is not None else Key.draw()
        if _shape(leaves, self._objective.modules) != self._shape:
            return backward(self.method, self.model, self.loss_fn, *batch, key=key)
        loss, total, *grads = self._evaluated(leaves, key)
        if not math.isfinite(total):
            cure = "look at the batch, lower the learning rate, or clip"
            raise NonFiniteError("an estimate needs finite numbers", f"loss {float(loss)}", cure, path="loss")
        for parameter, grad in zip(self._trained.values(), grads, strict=True):
            parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
        return loss

    def _evaluated(self, leaves: Sequence[Any], key: Key) -> Sequence[Tensor]:
        with torch.no_grad():
            return self._run(*self._inputs(leaves, key))

    def _inputs(self, leaves: Sequence[Any], key: Key) -> list[Tensor]:
        """What the graph reads: parameters and buffers, the batch, and where the draw begins."""
        step, keys = place_of(key)
        place = torch.tensor([step, *keys], device=self._objective.device)
        return [*self._held.values(), *(x for x in leaves if isinstance(x, Tensor)), place]

    def _compiled(self, leaves: Sequence[Any]) -> Callable[..., Sequence[Tensor]]:
        def step(*inputs: Tensor) -> list[Tensor]:
            *values, place = inputs
            given = iter(values[len(self._held.places) :])
            batch = tree_unflatten([next(given) if x is None else x for x in self._constants], self._spec)
            return self._traced(values[: len(self._held.places)], batch, Placed.at(place))

        try:
            with torch.no_grad(), self._objective.unchanged():
                graph = make_fx(step)(*(x.detach() for x in self._inputs(leaves, Key(0))))
        except RuntimeError as error:
            if "tracing tensor" not in str(error):
                raise
            cure = "compute with tensors all the way, or use fg.backward"
            raise UnsupportedError("a compiled step needs values that nobody looks at", "one read", cure) from error
        return by_inductor(graph, self._inputs(leaves, Key(0)), self._objective.device)

    def _traced(self, values: Sequence[Tensor], batch: Any, key: Key) -> list[Tensor]:
        objective, kept = self._objective, self._objective.batch
        try:
            objective.batch = batch
            with self._held.swapped(values) as named:
                estimate = self.method(objective, {name: named[name] for name in objective.params}, key=key)
        finally:
            objective.batch = kept
        grads = [estimate.grad[name] for name in self._trained]
        total = estimate.slopes.sum() + estimate.loss  # finite as long as all of them are
        return [estimate.loss, total, *(g.densify() if isinstance(g, FactoredGradient) else g for g in grads)]

    def _prove(self, leaves: Sequence[Any], expected: Sequence[Estimate]) -> None:
        """Compares the graph with the step that was traced, on draws that the graph has not seen."""
        try:
            found = [self._evaluated(leaves, key) for key in _PROOF]
        except torch._dynamo.exc.BackendCompilerFailed as error:
            cure = "install a C++ compiler such as g++, or use fg.backward"
            said = str(error).partition("\n")[0]
            raise UnsupportedError("a compiled step needs a compiler for its graph", said, cure) from error
        for (_, total, *grads), true in zip(found, expected, strict=True):
            pairs = [(total, true.slopes.sum() + true.loss)]
            pairs += zip(grads, (true.grad[name] for name in self._trained), strict=True)
            pairs = [(a.double(), (b.densify() if isinstance(b, FactoredGradient) else b).double()) for a, b in pairs]
            off = math.sqrt(sum(float((a - b).square().sum()) for a, b in pairs))
            off /= max(math.sqrt(sum(float(b.square().sum()) for _, b in pairs)), 1e-300)
            if not off <= _TOLERANCES.get(total.dtype, _TOLERANCES[torch.float32]):
                found_there = f"one that is off by {off:.1g} of the gradient"
                raise UnsupportedError(
                    "a compiled step needs a graph that gives what the step gives", found_there, "use fg.backward"
                )


class _Held:
    """The tensors of a model that the graph reads at each call: parameters, trained or not, and buffers.

    Args:
        objective: of the model.
    """

    def __init__(self, objective: ModuleObjective) -> None:
        self.places: dict[str, list[tuple[dict[str, Any], str]]] = {
            name: [(module._parameters, key) for module, key in places]
            for name, places in objective.slots.places.items()
        }
        for path, module in objective.slots.modules:
            for key, buffer in module._buffers.items():
                if buffer is not None:
                    self.places[f"buffer {path}.{key}"] = [(module._buffers, key)]

    def values(self) -> list[Tensor]:
        """The tensors as they are now."""
        return [places[0][0][places[0][1]] for places in self.places.values()]

    @contextmanager
    def swapped(self, values: Sequence[Tensor]) -> Iterator[dict[str, Tensor]]:
        """Puts others in their places, which are given back by name; puts the own ones back whatever happens."""
        own = self.values()
        try:
            self._put(values)
            yield dict(zip(self.places, values, strict=True))
        finally:
            self._put(own)

    def _put(self, values: Sequence[Tensor]) -> None:
        for places, value in zip(self.places.values(), values, strict=True):
            for table, key in places:
                table[key] = value


def _shape(leaves: Sequence[Any], modules: Sequence[nn.Module]) -> tuple[Any, ...]:
    """What a graph is good for: shapes and dtypes of the batch, what is no tensor in it, and the modules' modes."""
    batch = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in leaves)
    return *batch, *(module.training for module in modules)


def by_inductor(graph: GraphModule, inputs: Sequence[Tensor], device: torch.device) -> Callable[..., list[Tensor]]:
    """A traced graph without Python between its kernels, and without torch.compile's guards, which cost as much.

    Args:
        graph: what make_fx traced.
        inputs: to compile it for.
        device: that it runs on.
    """
    for node in graph.graph.nodes:
        node.meta.clear()  # shapes as make_fx noted them: the compiler wants to make its own notes
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the compiler's own, of its own parts
        return torch._inductor.compile(graph, [*inputs], options={"cpp_wrapper": device.type == "cpu"})


def _check_repeatable(objective: ModuleObjective) -> None:
    """Refuses a step whose outcome depends on more than its arguments.

    Raises:
        UnsupportedError: it draws random numbers, or writes into buffers.
    """
    buffers = [(path, key, b) for path, m in objective.slots.modules for key, b in m._buffers.items() if b is not None]
    with torch.no_grad(), objective.unchanged():
        versions, before = [b._version for _, _, b in buffers], Randomness(objective.device)
        objective(objective.params)
        after = Randomness(objective.device)
        cure = "call model.eval(), or use fg.backward"
        on_gpu = before.cuda is not None and after.cuda is not None and not torch.equal(before.cuda, after.cuda)
        if on_gpu or not torch.equal(before.torch, after.torch):
            raise UnsupportedError("a compiled step needs a model that draws nothing", "random numbers", cure)
        for (path, key, buffer), version in zip(buffers, versions, strict=True):
            if buffer._version != version:
                raise UnsupportedError(
                    "a compiled step needs buffers that stay", f"`{key}` written to", cure, path=path
                )
