"""What a method costs on your net: time, memory, tape, and forward passes, each from a run of its own.

    peak_bytes      the most bytes alive at once, above what was there before (weights, batch)
    tape_bytes      bytes offered to autograd's tape; 0 for a method that only goes forward
    forward_passes  flops(method) / flops(one forward pass of the same loss without a tape)

The runs start from the same state with the same key, and nothing is left changed: gradients, buffers, the
training flag and the random number generators are put back, also when the method raises.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forwardgrad.errors import InputError
from forwardgrad.estimate import backward
from forwardgrad.flops import count_flops
from forwardgrad.forward_ad.peak import PeakBytes, leaves
from forwardgrad.module import ModuleObjective
from forwardgrad.module.replay import Buffers, Randomness
from forwardgrad.probes import process_peak, tape_bytes
from forwardgrad.tangents.key import Key


@dataclass(frozen=True)
class Measurement:
    """One method on one net and batch.

    Args:
        name: the method.
        loss: what the method returned.
        seconds: the best of several runs.
        peak_bytes: the most bytes alive at once, counted per storage, above what was alive before.
        tape_bytes: bytes offered to the tape, each storage once, the model's weights and buffers left out.
        forward_passes: cost in forward passes of the same loss, counted in floating-point operations.
        process_peak_bytes: the same peak seen from outside: resident memory (Linux) or the CUDA allocator.
            It holds what kernels need inside, and whatever else the process does. None where there is none.
    """

    name: str
    loss: float
    seconds: float
    peak_bytes: int
    tape_bytes: int
    forward_passes: float
    process_peak_bytes: int | None

    def __str__(self) -> str:
        rows = {
            "loss": f"{self.loss:.6g}",
            "time": _seconds(self.seconds),
            "forward passes": f"{self.forward_passes:.2f}",
            "peak": _bytes(self.peak_bytes),
            "tape": _bytes(self.tape_bytes),
            "process peak": "-" if self.process_peak_bytes is None else _bytes(self.process_peak_bytes),
        }
        return "\n".join([self.name, *(f"  {label:<15}{value:>12}" for label, value in rows.items())])


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _seconds(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e6:.1f} us"


class _State:
    """What a run may change, and how to put it back.

    Weights are copied only where a sink is given: nothing else may write to them.
    """

    def __init__(self, model: nn.Module, with_weights: bool) -> None:
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._randomness = Randomness(self.device)
        self._buffers = Buffers(list(model.modules()))
        self._training = {module: module.training for module in model.modules()}
        self._grads = {p: p.grad for p in model.parameters()}
        self._weights = {p: p.detach().clone() for p in model.parameters()} if with_weights else {}

    def restore(self, grads: bool) -> None:
        """Puts everything back; the gradients too, or None in their place."""
        with torch.no_grad():
            self._buffers.restore()
            for p, value in self._weights.items():
                p.copy_(value)
        for module, training in self._training.items():
            module.training = training
        for p, grad in self._grads.items():
            p.grad = grad if grads else None
        self._randomness.restore()


@contextmanager
def _unchanged(model: nn.Module, with_weights: bool) -> Iterator[_State]:
    state = _State(model, with_weights)
    try:
        yield state
    finally:
        state.restore(grads=True)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _clock(work: Callable[[], Any], device: torch.device) -> float:
    _synchronise(device)
    start = time.perf_counter()
    work()
    _synchronise(device)
    return time.perf_counter() - start


def _passes(
    name: str,
    model: nn.Module,
    prepare: Callable[[], Callable[[], Any]],
    forward: Callable[[], Any],
    state: _State,
    repeats: int,
) -> Measurement:
    """The separate runs. `prepare` puts the state back and returns the work, so that copies stay outside."""
    work = prepare()
    gc.collect()
    with PeakBytes() as memory:
        loss = work()
    value = float(loss.detach())
    del loss
    work = prepare()
    with tape_bytes(model) as tape:
        work()
    flops = count_flops(prepare())
    state.restore(grads=False)
    one = count_flops(forward)
    seconds = min(_clock(prepare(), state.device) for _ in range(repeats))
    process = process_peak(prepare(), state.device)
    return Measurement(name, value, seconds, memory.peak, tape(), flops.over(one), process)


def measure(
    method: Any,
    model: nn.Module,
    loss_fn: Callable[..., Any],
    *batch: Any,
    into: Any = None,
    key: Key | None = None,
    repeats: int = 3,
) -> Measurement:
    """Measures what `fg.backward(method, model, loss_fn, *batch)` costs, and changes nothing.

    Args:
        method: any gradient method; it is copied for each run, so that what it remembers stays as it is.
        model: the net, in the mode in which it is to be measured.
        loss_fn: `loss_fn(model, *batch)` returns the scalar loss, or (loss, aux).
        batch: what the loss takes.
        into: the sink, as in `fg.backward`; copied for each run.
        key: the draw; one is taken from torch's generator, and the generator put back, when none is given.
        repeats: timed runs, of which the best counts.

    Raises:
        InputError: for fewer than one repeat.
        ForwardGradError: whatever `fg.backward` refuses.
    """
    _check(repeats)
    with _unchanged(model, with_weights=into is not None) as state:
        key = Key.draw() if key is None else key
        # The model and the batch are shared by all copies of method and sink, which may refer to them.
        shared = [*model.modules(), *model.parameters(), *model.buffers(), *leaves(batch)]

        def prepare() -> Callable[[], Any]:
            state.restore(grads=False)
            memo = {id(item): item for item in shared}
            ours, sink = copy.deepcopy(method, dict(memo)), copy.deepcopy(into, dict(memo))
            options = {} if sink is None else {"into": sink}
            return lambda: backward(ours, model, loss_fn, *batch, key=key, **options)

        return _passes(repr(method), model, prepare, _forward(model, loss_fn, batch), state, repeats)


def forward_baseline(model: nn.Module, loss_fn: Callable[..., Any], *batch: Any, repeats: int = 3) -> Measurement:
    """Measures one forward pass without a tape, the yardstick of every method; changes nothing.

    Args:
        model: the net.
        loss_fn: `loss_fn(model, *batch)` returns the scalar loss, or (loss, aux).
        batch: what the loss takes.
        repeats: timed runs, of which the best counts.

    Raises:
        InputError: for fewer than one repeat.
    """
    _check(repeats)
    forward = _forward(model, loss_fn, batch)
    with _unchanged(model, with_weights=False) as state:

        def prepare() -> Callable[[], Any]:
            state.restore(grads=False)
            return forward

        return _passes("forward pass", model, prepare, forward, state, repeats)


def _forward(model: nn.Module, loss_fn: Callable[..., Any], batch: tuple[Any, ...]) -> Callable[[], Tensor]:
    # Through the objective, as the methods go: key/value caches off, wrapped models unwrapped.
    objective = ModuleObjective(model, loss_fn, *batch)

    def forward() -> Tensor:
        with torch.no_grad():
            return objective(objective.params)

    return forward


def _check(repeats: int) -> None:
    if repeats < 1:
        raise InputError(
            needs="a measurement needs at least one timed run",
            found=f"repeats={repeats}",
            cure="give a positive number",
        )
