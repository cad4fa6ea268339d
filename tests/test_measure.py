"""What `measure` says, against figures by hand, and that it changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from forwardgrad.errors import InputError
from forwardgrad.estimate import Apply, Estimate, backward
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.measurement import Measurement, forward_baseline, measure
from forwardgrad.methods import SPSA, Backprop, CheckpointedBackprop, ControlVariate, ForwardGradient
from forwardgrad.probes import process_peak, tape_bytes
from forwardgrad.tangents.key import Key

MIB = 2**20


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def _net(dropout: float = 0.1) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 16), nn.Linear(16, 3)
    )
    return model, (torch.randn(32, 8), torch.randint(3, (32,)))


def _deep(layers: int, width: int = 128, rows: int = 512) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(width, width, bias=False), nn.Tanh()) for _ in range(layers)]
    return nn.Sequential(*parts, nn.Linear(width, 4)), (torch.randn(rows, width), torch.randint(4, (rows,)))


def _state(model: nn.Module) -> dict[str, Any]:
    """Everything that must be as it was, by value and by identity."""
    return {
        "weights": {n: p.detach().clone() for n, p in model.named_parameters()},
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
        "identities": [id(t) for t in (*model.parameters(), *model.buffers())],
        "grads": {n: (id(p.grad), None if p.grad is None else p.grad.clone()) for n, p in model.named_parameters()},
        "training": [m.training for m in model.modules()],
        "generator": torch.get_rng_state(),
    }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


@dataclass(frozen=True)
class _Meddler:
    """A method that leaves everything changed: gradients, buffers, flags, the generator; and may then raise."""

    model: nn.Module
    error: type[BaseException] | None = None

    def __call__(self, objective: Any, params: Any, *, key: Any = None, into: Any = None) -> Estimate:
        loss = objective(params)
        for p in self.model.parameters():
            p.grad = torch.ones_like(p) if p.grad is None else p.grad.add_(1)
        bn = self.model[1]
        bn.running_mean.add_(1)
        bn._buffers["running_var"] = torch.ones(16)
        self.model.train(not self.model.training)
        torch.rand(3)
        if self.error is not None:
            raise self.error
        return Estimate(loss, {}, torch.empty(0), key)


METHODS: list[Callable[[], Any]] = [
    Backprop,
    CheckpointedBackprop,
    ForwardGradient,
    lambda: ForwardGradient(num_tangents=3, tangents="gaussian"),
    lambda: SPSA(num_tangents=2),
    lambda: ControlVariate(num_tangents=2),
]


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("grads", [False, True])
def test_nothing_is_changed(make: Callable[[], Any], grads: bool) -> None:
    model, batch = _net()
    if grads:
        _loss(model, *batch).backward()
    before = _state(model)
    measure(make(), model, _loss, *batch, repeats=1)
    assert _same(before, _state(model))


def test_a_sink_that_steps_is_undone() -> None:
    model, batch = _net()
    sink = Apply(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    before = _state(model)
    found = measure(CheckpointedBackprop(fused=True), model, _loss, *batch, into=sink, repeats=2)
    assert _same(before, _state(model))
    assert not sink.optimizers  # each run steps a copy
    assert found.loss == pytest.approx(float(forward_baseline(model, _loss, *batch).loss), rel=1e-5)


def test_a_method_with_a_memory_keeps_it() -> None:
    model, batch = _net()
    method = ControlVariate()
    measure(method, model, _loss, *batch, key=Key(1), repeats=1)
    assert method.guess == {}


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_a_meddling_method_is_undone_even_when_it_raises(error: type[BaseException] | None) -> None:
    model, batch = _net()
    _loss(model, *batch).backward()
    before = _state(model)
    if error is None:
        measure(_Meddler(model), model, _loss, *batch, repeats=1)
    else:
        with pytest.raises(error):
            measure(_Meddler(model, error), model, _loss, *batch, repeats=1)
    assert _same(before, _state(model))


@dataclass(frozen=True)
class _Recorder:
    """Notes the key, a random number and the loss of each run."""

    seen: list[tuple[Key | None, float, float]]

    def __deepcopy__(self, memo: dict) -> _Recorder:
        return self

    def __call__(self, objective: Any, params: Any, *, key: Any = None, into: Any = None) -> Estimate:
        with torch.no_grad():
            loss = objective(params)
        self.seen.append((key, float(loss), float(torch.rand(()))))
        return Estimate(loss, {}, torch.empty(0), key)


@pytest.mark.parametrize("key", [None, Key(3, 4)])
def test_every_run_starts_from_the_same_state_with_the_same_key(key: Key | None) -> None:
    model, batch = _net()
    recorder = _Recorder([])
    measure(recorder, model, _loss, *batch, key=key, repeats=2)
    assert len(recorder.seen) == 6  # peak, tape, flops, twice the clock, the process
    assert len(set(recorder.seen)) == 1
    assert recorder.seen[0][0] == (key if key is not None else Key.draw())


def test_backprop_by_hand() -> None:
    layers, width, rows = 8, 128, 512
    model, batch = _deep(layers, width, rows)
    found, one = measure(Backprop(), model, _loss, *batch), forward_baseline(model, _loss, *batch)
    activation, weights = rows * width * 4, sum(p.numel() * 4 for p in model.parameters())
    # The input, the output of each Tanh (which the next layer reads too), and what the loss keeps.
    assert (layers + 1) * activation <= found.tape_bytes <= (layers + 1) * activation + 10 * rows * 4 * 4
    assert layers * activation <= found.peak_bytes <= (layers + 3) * activation + weights + 2**16
    assert one.tape_bytes == 0
    # The layer's input, which the outer Sequential still holds, and what Linear and Tanh return.
    assert one.peak_bytes == 3 * activation
    assert one.forward_passes == 1.0
    # Three products per layer, but no gradient of the batch.
    assert 2.8 <= found.forward_passes <= 3.0
    assert found.loss == pytest.approx(one.loss, rel=1e-6)
    assert found.seconds > 0 < one.seconds


def test_a_forward_gradient_offers_nothing_to_the_tape() -> None:
    model, batch = _deep(8)
    one, eight = (measure(ForwardGradient(k), model, _loss, *batch, repeats=1) for k in (1, 8))
    forward, backprop = forward_baseline(model, _loss, *batch), measure(Backprop(), model, _loss, *batch, repeats=1)
    assert one.tape_bytes == eight.tape_bytes == 0
    assert one.loss == pytest.approx(forward.loss, rel=1e-5)
    # The batch has no tangent: the first of the eight layers saves its share.
    assert 1 + 7 / 8 <= one.forward_passes <= 2.1
    assert 1 + 8 * 7 / 8 <= eight.forward_passes <= 9.5
    assert one.peak_bytes <= 2.5 * forward.peak_bytes < backprop.peak_bytes


def test_no_gradient_sized_tensor_in_backward_and_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 512))
    batch = torch.randn(4, 512), torch.randint(512, (4,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model[0].weight.detach().clone()
    with PeakBytes() as memory:
        for _ in range(2):
            backward(ForwardGradient(num_tangents=2), model, _loss, *batch)
        optimizer.step()
    assert not torch.equal(before, model[0].weight)
    assert memory.peak < 512 * 512 * 4 / 4


def test_differences_cost_two_forward_passes_each() -> None:
    model, batch = _deep(4)
    found = measure(SPSA(num_tangents=3), model, _loss, *batch, repeats=1)
    assert 6.0 <= found.forward_passes <= 6.6
    assert found.tape_bytes == 0


def test_checkpointing_keeps_the_inputs_of_its_blocks() -> None:
    model, batch = _deep(8)
    plain = measure(Backprop(), model, _loss, *batch, repeats=1)
    saved = measure(CheckpointedBackprop(), model, _loss, *batch, repeats=1)
    assert saved.tape_bytes <= plain.tape_bytes
    assert saved.forward_passes == pytest.approx(plain.forward_passes + 1, abs=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="another process-level figure there")
def test_the_process_agrees_where_buffers_are_large() -> None:
    # 34 MiB an activation: glibc maps such buffers one by one, so that no holes in its heap blur the figure.
    model, batch = _deep(layers=4, width=128, rows=70_000)
    found = measure(Backprop(), model, _loss, *batch, repeats=1)
    if found.process_peak_bytes is None:
        pytest.skip("this system has no high-water mark that can be reset")
    assert found.process_peak_bytes == pytest.approx(found.peak_bytes, rel=0.1)


def test_no_process_figure_without_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("forwardgrad.probes._CLEAR_REFS", tmp_path / "no" / "clear_refs")
    assert process_peak(lambda: None, torch.device("cpu")) is None


def test_tape_counts_each_storage_once_and_no_weights() -> None:
    model = nn.Linear(4, 4)
    x = torch.randn(2, 4, requires_grad=True)
    with tape_bytes(model) as tape:
        y = model(x)  # the input, and the weight for the input's gradient
        assert tape() == 2 * 4 * 4
        z = torch.tanh(y)  # its output
        loss = (z.view(2, 4) * z.t().reshape(2, 4)).sum()
        assert tape() == 3 * (2 * 4 * 4)  # the view's storage was counted, the reshaped copy is new
    assert loss.requires_grad
    with tape_bytes(model) as tape, torch.no_grad():
        model(x)
    assert tape() == 0


def test_tape_under_checkpointing_is_what_crosses_the_blocks() -> None:
    model = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 4))
    x = torch.randn(8, 4, requires_grad=True)
    with tape_bytes(model) as tape:
        checkpoint(model, x, use_reentrant=False).sum().backward()
    assert tape() == 8 * 4 * 4


def test_aux_and_dict_batches() -> None:
    model = nn.Linear(4, 2)
    batch = {"x": torch.randn(3, 4), "y": torch.randint(2, (3,))}

    def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = model(batch["x"])
        return F.cross_entropy(logits, batch["y"]), logits

    assert measure(Backprop(), model, loss_fn, batch).loss == pytest.approx(
        forward_baseline(model, loss_fn, batch).loss, rel=1e-6
    )


def test_measurement_reads_well() -> None:
    found = Measurement("ForwardGradient(num_tangents=1)", 1.25, 0.0025, 3 * MIB, 0, 2.125, None)
    assert str(found).splitlines() == [
        "ForwardGradient(num_tangents=1)",
        "  loss                   1.25",
        "  time                2.50 ms",
        "  forward passes         2.12",
        "  peak                3.0 MiB",
        "  tape                    0 B",
        "  process peak              -",
    ]
    assert copy.deepcopy(found) == found


def test_no_repeats_is_refused() -> None:
    model, batch = _net()
    with pytest.raises(InputError, match="repeats=0"):
        measure(Backprop(), model, _loss, *batch, repeats=0)
    with pytest.raises(InputError, match="repeats=0"):
        forward_baseline(model, _loss, *batch, repeats=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    model, batch = _deep(8)
    model, batch = model.cuda(), tuple(x.cuda() for x in batch)
    torch.rand(1, device="cuda")
    before = torch.cuda.get_rng_state()
    found = measure(Backprop(), model, _loss, *batch)
    assert torch.equal(before, torch.cuda.get_rng_state())
    assert found.process_peak_bytes >= found.peak_bytes * 0.9
