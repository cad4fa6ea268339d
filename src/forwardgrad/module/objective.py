"""`ModuleObjective`: a model, a loss function and a batch as a function of the model's parameters, on every rung."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from forwardgrad.errors import InputError, RungError
from forwardgrad.forward_ad import push_forward
from forwardgrad.forward_ad.shift import Shifted
from forwardgrad.forward_ad.whole import Taken, taking, wholes
from forwardgrad.module.admission import admit_batch, admit_model, unwrapped
from forwardgrad.module.replay import Buffers, Randomness, Replay, forget_duals
from forwardgrad.module.slots import Slots
from forwardgrad.module.visits import visited
from forwardgrad.objective import Link, Params, Site, Slopes, Visit, judged, scalar
from forwardgrad.tangents import Key, Tangents


class ModuleObjective:
    """A model and its loss on one batch, as an objective of the model's trainable parameters.

    The model is never wrapped and never changed: for the length of an evaluation other tensors take its parameters'
    places, key/value caches are switched off, and everything is put back whatever happens.

    Args:
        model: any module; a DistributedDataParallel is unwrapped, and losses and slopes are averaged over its ranks.
        loss_fn: ``loss_fn(model, *batch)`` gives a scalar loss, or (loss, aux).
        batch: tensors, or containers of them, on the model's device.
        params: which parameters to train: names or parameters; by default all with ``requires_grad``.
        strict: refuse operations without a rule and values read out of tensors.

    Raises:
        InputError: unknown `params`; integer or complex parameters; mixed devices.
        NonFiniteError: NaN in the batch.
        UnsupportedError: a compiled, scripted or sharded model.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Any],
        *batch: Any,
        params: Iterable[str | Tensor] | None = None,
        strict: bool = False,
    ) -> None:
        self.model, self.group = unwrapped(model)
        self.loss_fn, self.batch, self.strict = loss_fn, batch, strict
        self.slots = Slots(self.model)
        self.modules = [module for _, module in self.slots.modules]
        self.params: dict[str, Tensor] = dict(self._selected(params))
        self.device = admit_model(self.slots.modules, self.params)
        admit_batch(batch, self.device)
        self.aux: Any = None
        self._replay: Replay | None = None
        self._first: Buffers | None = None

    @cached_property
    def _wholes(self) -> list[Taken]:
        """The layers that a push takes whole; a hook that somebody hangs onto one of them is called as ever."""
        return wholes(self.modules)

    def __repr__(self) -> str:
        return f"ModuleObjective({type(self.model).__name__}, {len(self.params)} parameters)"

    # rung 0

    def __call__(self, params: Params) -> Tensor:
        """The loss [] at `params`; what the loss function returned beside it is in `aux`."""
        with self._evaluation(), self.slots.swapped(params):
            out = self.loss_fn(self.model, *self.batch)
        loss, self.aux = out if isinstance(out, tuple) else (out, None)
        return self._average(scalar(loss))

    def shifted(self, params: Params, tangents: Tangents, k: int, eps: float) -> Params:
        """params + eps v_k, made layer by layer while the model runs: the weights themselves are never touched."""
        v = tangents.chunk(k, k + 1)
        return {name: Shifted(p.detach(), v[name], eps, name) if name in v else p for name, p in params.items()}

    # rung 1

    def push(self, params: Params, tangents: Tangents) -> Slopes:
        """(loss [], slopes [K]) in one pass."""
        loss_of = self.followed()
        with self._evaluation():
            try:
                value, slopes, aux, trace, reached = push_forward(
                    lambda duals: judged(loss_of(duals)), params, tangents, strict=self.strict, locate=self.locate
                )
                kept = weakref.ref(trace)
                del trace
            except BaseException:
                forget_duals(self.modules)
                raise
            if kept() is not None:  # by a Dual that outlives the push
                forget_duals(self.modules)
        loss = scalar(value)
        return Slopes(self._average(loss), self._average(slopes.reshape(tangents.num_tangents)), aux, reached)

    def followed(self) -> Callable[[Mapping[str, Tensor]], Any]:
        """What a push runs: parameters -> what the loss function returns, with some layers taken whole."""
        layers = self._wholes  # tried before anything is pushed

        def run(duals: Mapping[str, Tensor]) -> Any:
            with self.slots.swapped(duals), taking(layers):
                return self.loss_fn(self.model, *self.batch)

        return run

    def admit(self, tangents: Tangents) -> Tangents:
        """Zero tangents for the padding rows of embeddings, whose gradient is zero by definition.

        A tied embedding keeps its row: its other use trains it. The embedding's own use of the row is still constant.
        """
        rows: dict[str, int | Tensor] = {}
        if all(module.__dict__.get("padding_idx") is None for module in self.modules):
            return tangents
        for name in tangents:
            uses = {module.__dict__.get("padding_idx") for module, _ in self.slots.places.get(name, ())}
            if len(uses) == 1 and (row := uses.pop()) is not None:
                rows[name] = row
        return tangents.mask(rows) if rows else tangents

    def replaying(self) -> AbstractContextManager[None]:
        """Inside, every evaluation has the same dropout masks and buffers; afterwards all is as after one evaluation.

        After an exception all is as it was before.
        """
        return self._replayed(Replay.finish)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """As `replaying` inside; afterwards all is as if nothing had been evaluated or drawn."""
        entry = Randomness(self.device)
        try:
            with self._replayed(Replay.undo):
                yield
        finally:
            entry.restore()

    def undo(self) -> None:
        """Puts buffers back to before the first evaluation: an estimate may be refused after it, for a NaN say."""
        if self._first is not None:
            with torch.no_grad():
                self._first.restore()

    def differentiate(self, leaves: Params, check: Callable[[Tensor], Tensor]) -> Tensor:
        """Runs the loss on `leaves` and backward from it while they are in place, as recomputation needs.

        Buffers end as one forward pass leaves them: what recomputation writes again is undone.

        Args:
            leaves: tensors that require gradients and say by hooks where these go.
            check: looks at the loss before backward.
        """
        with self._evaluation(), self.slots.swapped(leaves):
            out = self.loss_fn(self.model, *self.batch)
            loss, self.aux = out if isinstance(out, tuple) else (out, None)
            loss = check(scalar(loss))
            buffers = Buffers(self.modules)
            loss.backward(inputs=list(leaves.values()))
            with torch.no_grad():
                buffers.restore()
        return loss

    # rung 2

    def predict(self, params: Params) -> Any:
        """What the model returns inside the loss function, before the loss looks at it.

        Raises:
            RungError: the loss function does not call the model.
        """
        seen: list[Any] = []
        stock = self.model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            seen.append(stock(*args, **kwargs))
            raise _Predicted

        with self._evaluation(), self.slots.swapped(params), self._forward_as(forward):
            try:
                self.loss_fn(self.model, *self.batch)
            except _Predicted:
                return seen[0]
        raise RungError(
            "a prediction needs the loss function to call the model",
            "a loss that does not",
            "call model(...)",
        )

    def loss(self, prediction: Any) -> Tensor:
        """The loss [] of a given prediction: the loss function with the model's answer already known.

        Raises:
            RungError: the loss function calls the model more than once.
        """
        return self.answered(lambda *args, **kwargs: prediction)

    def sites(self, params: Params) -> dict[str, Site]:
        """The outputs of the layers that hold parameters of their own, in the order in which they are computed.

        Raises:
            RungError: a layer that is used more than once, whose output has no single value.
        """
        found: dict[str, Site] = {}
        handles = []
        for name, layer in self.slots.modules:
            if any(p is not None for p in layer._parameters.values()):
                handles.append(layer.register_forward_hook(_observer(name, found)))
        try:
            with torch.no_grad(), self.unchanged():
                self(params)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def visiting(self, visit: Visit) -> AbstractContextManager[None]:
        """Inside, one evaluation shows the inputs of the layers that hold matrices to `visit`, which may replace them.

        Raises:
            RungError: from the evaluation, for a layer that is used more than once.
        """
        return visited(self.slots.modules, visit)

    # rung 3

    def chain(self) -> Sequence[Link]:
        """The layers of an nn.Sequential (nested ones opened), in order; a layer without children is a chain of one.

        Raises:
            RungError: the model is something else.
        """
        if not _is_row(self.model) and any(True for _ in self.model.children()):
            raise RungError(
                "a chain needs an nn.Sequential",
                type(self.model).__name__,
                "compose the layers in an nn.Sequential, or use a method on a lower rung, such as fg.ForwardGradient",
            )
        return [Link(path, layer, self._names_in(layer)) for path, layer in _opened("", self.model)]

    @contextmanager
    def holding(self, params: Params) -> Iterator[None]:
        """Inside, the model holds `params`, and whatever is run counts as one evaluation."""
        with self._evaluation(), self.slots.swapped(params):
            yield

    def answered(self, answer: Callable[..., Any]) -> Tensor:
        """The loss [] where `answer` stands for the model; what comes beside it is in `aux`.

        Args:
            answer: called with what the loss function gives the model; returns the prediction.

        Raises:
            RungError: the loss function does not call the model, or calls it more than once.
        """
        calls = 0
        stock = self.model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise RungError(
                    "a cut at the output needs one call of the model",
                    "a second call",
                    "use fg.ForwardGradient",
                )
            with self._forward_as(stock):  # a chain of one layer runs the model itself
                return answer(*args, **kwargs)

        with self._forward_as(forward):
            out = self.loss_fn(self.model, *self.batch)
        if not calls:
            raise RungError("a cut at the output needs one call of the model", "no call", "call model(...)")
        loss, self.aux = out if isinstance(out, tuple) else (out, None)
        return scalar(loss)

    # the place and the state

    def locate(self) -> str:
        """The path of the innermost module now running."""
        names = {id(module): name for name, module in self.slots.modules}
        frame = sys._getframe(1)
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and id(owner) in names:
                return names[id(owner)] or type(owner).__name__
            frame = frame.f_back  # type: ignore[assignment]
        return "loss_fn"

    def shared(self, key: Key) -> Key:
        """The key of rank 0, where there are ranks: all must push the same tangents for slopes to be averaged."""
        if self.group is None:
            return key
        box = torch.tensor(list(key), dtype=torch.int64, device=self.device)
        dist.broadcast(box, dist.get_global_rank(self.group, 0), group=self.group)
        return Key(*box.tolist())

    def average(self, x: Tensor) -> Tensor:
        """The mean over the ranks of a DistributedDataParallel; x itself elsewhere."""
        return self._average(x)

    def _average(self, x: Tensor) -> Tensor:
        if self.group is None or x.requires_grad:
            return x
        x = x.clone()
        dist.all_reduce(x, group=self.group)
        return x.div_(dist.get_world_size(self.group))

    def _selected(self, params: Iterable[str | Tensor] | None) -> dict[str, nn.Parameter]:
        known = self.slots.params
        if params is None:
            return {name: p for name, p in known.items() if p.requires_grad}
        by_identity = {id(p): name for name, p in known.items()}
        names = [x if isinstance(x, str) else by_identity.get(id(x), "") for x in params]
        for name in names:
            if name not in known:
                raise InputError(
                    "params= needs parameters of the model",
                    f"`{name}`" if name else "a tensor that is none",
                    "see model.named_parameters()",
                )
        return {name: known[name] for name in names}

    def _names_in(self, layer: nn.Module) -> dict[str, str]:
        prefixes = {id(module): f"{path}." if path else "" for path, module in layer.named_modules()}
        return {
            f"{prefixes[id(module)]}{key}": name
            for name in self.params
            for module, key in self.slots.places[name]
            if id(module) in prefixes
        }

    @contextmanager
    def _replayed(self, end: Callable[[Replay], None]) -> Iterator[None]:
        if self._replay is not None:  # already inside one
            yield
            return
        self._replay = replay = Replay(self.modules, self.device)
        try:
            yield
        except BaseException:
            end = Replay.undo
            raise
        finally:
            self._replay = None
            end(replay)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        buffers = self._replay.begin() if self._replay is not None else Buffers(self.modules)
        self._first = self._first if self._first is not None else buffers
        configs = [c for c in _configs(self.modules) if c.use_cache]
        try:
            for config in configs:
                config.use_cache = False
            yield
        except BaseException:
            with torch.no_grad():
                buffers.restore()
            raise
        finally:
            for config in configs:
                config.use_cache = True

    @contextmanager
    def _forward_as(self, forward: Callable[..., Any]) -> Iterator[None]:
        own = self.model.__dict__.get("forward")
        self.model.forward = forward
        try:
            yield
        finally:
            if own is None:
                del self.model.forward
            else:
                self.model.forward = own


class _Predicted(BaseException):
    """Leaves the loss function as soon as the model has answered."""


def _observer(name: str, found: dict[str, Site]) -> Callable[..., None]:
    def observe(layer: nn.Module, args: Any, output: Any) -> None:
        if name in found:
            raise RungError(
                "a site needs a layer used once",
                "a second use",
                "give each use a layer of its own",
                path=name,
            )
        if isinstance(output, Tensor):
            found[name] = Site(name, layer, output.shape, output.dtype)

    return observe


def _is_row(module: nn.Module) -> bool:
    """Whether it runs its children one after the other, and does nothing else."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _opened(path: str, layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if not _is_row(layer):
        yield path, layer
        return
    for name, child in layer._modules.items():  # named_children would pass over a layer's second use
        assert child is not None
        yield from _opened(f"{path}.{name}" if path else name, child)


def _configs(modules: Sequence[nn.Module]) -> list[Any]:
    """The Hugging Face configurations in a model that say whether to keep keys and values."""
    found = {id(c): c for m in modules if (c := m.__dict__.get("config")) is not None and hasattr(c, "use_cache")}
    return list(found.values())
