"""The storage-level peak against cases counted by hand, and against the process's resident pages."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from forwardgrad.forward_ad.peak import PeakBytes, leaves, storages

KIB = 1024


def _row(kib: int) -> Tensor:
    return torch.zeros(kib * KIB // 4)


def test_chain_by_hand() -> None:
    x = _row(1)
    with PeakBytes() as mode:
        y = x + 1  # 1
        z = y + 1  # 2
        del y  # 1
        z = z * 2  # 2, then 1 once the old z is dropped
    assert (mode.current, mode.peak) == (1 * KIB, 2 * KIB)
    del z
    assert mode.current == 1 * KIB  # what the block left behind, not what is left now


def test_views_and_in_place_do_not_count_twice() -> None:
    x = _row(4)
    with PeakBytes() as mode:
        y = x.clone()
        views = [y[3:], y.view(2, -1).t(), y.expand(5, -1), y.detach(), *y.chunk(2)]
        y.add_(1).relu_()
        x.mul_(2)
        torch.sum(x.view(-1, 2), 1, out=torch.empty(0))  # out= grows a storage: 2 KiB, dropped at once
        del y
        assert mode.current == 4 * KIB  # the views keep the storage
        del views
        gc.collect()
        assert mode.current == 0
    assert mode.peak == 6 * KIB


def test_storages_from_before_count_zero() -> None:
    weight, batch = torch.randn(64, 64), torch.randn(8, 64)
    with PeakBytes() as mode:
        weight.t()
        weight.add_(1)
        out = batch @ weight
    assert mode.peak == mode.current == out.numel() * 4


def test_dead_storages_from_before_do_not_lower_the_count() -> None:
    x = _row(8)
    with PeakBytes() as mode:
        del x
        y = _row(2)
        assert (mode.current, mode.peak) == (2 * KIB, 2 * KIB)
        del y
    assert mode.current == 0


def test_resized_storage_counts_its_new_size() -> None:
    with PeakBytes() as mode:
        out = torch.empty(0)
        torch.add(_row(1), 1, out=out)  # 1 for the row, 1 for the output
        assert mode.current == KIB
    assert mode.peak == 2 * KIB


def test_torch_tensor_and_lists_and_sparse_outputs() -> None:
    with PeakBytes() as mode:
        a = torch.tensor([1.0] * 256)
        parts = torch.stack([a, a]).unbind()
        assert mode.current == 3 * KIB
        del parts
        s = a.to_sparse()
        values = s._values().numel() * 4 + s._indices().numel() * 8
        assert mode.current == KIB + values
        del s
        assert mode.current == KIB


def test_zero_and_meta_tensors_have_no_memory() -> None:
    with PeakBytes() as mode:
        z, m = torch._efficientzerotensor((1024,)), torch.empty(1024, device="meta")
        m = m + 1
    assert mode.peak == 0
    assert list(storages(z)) == list(storages(m)) == []


def test_entering_again_starts_from_zero_and_leaves_no_callbacks() -> None:
    mode = PeakBytes()
    with mode:
        kept = _row(4)
    with mode:
        del kept
        _row(1)
        assert mode.current == 0
    assert mode.peak == KIB


def test_one_inside_another() -> None:
    with PeakBytes() as outer:
        a = _row(1)
        with PeakBytes() as inner:
            b = _row(2)
            del a
        del b
        assert outer.current == 0
    assert (outer.peak, inner.peak, inner.current) == (3 * KIB, 2 * KIB, 2 * KIB)


def test_leaves_finds_nested_tensors() -> None:
    x = torch.zeros(1)
    assert len(list(leaves(([x, (x,)], {"a": {"b": [x]}}, "abc", None, 3)))) == 3


class _Tagged(Tensor):
    """A `__torch_function__` subclass: ordinary memory, its own dispatch above."""


def test_under_torch_function_subclasses() -> None:
    x = _row(1).as_subclass(_Tagged)
    with PeakBytes() as mode:
        y = x + 1
        assert type(y) is _Tagged
        del y
    assert mode.peak == KIB


class _Wrapper(Tensor):
    """A wrapper subclass that keeps its data in another tensor, made by operations the mode must see."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> _Wrapper:
        self = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        inner = func(*[a.inner if isinstance(a, _Wrapper) else a for a in args])
        return _Wrapper(inner)


def test_under_wrapper_subclasses() -> None:
    x = _Wrapper(_row(1))
    with PeakBytes() as mode:
        y = x + 1
        assert mode.current == KIB  # the inner one, once: the wrapper itself has no memory
        del y
        assert mode.current == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch.func.jvp's own
def test_under_vmap_and_jvp() -> None:
    x, v = torch.randn(256), torch.randn(4, 256)
    with PeakBytes() as mode:
        out = torch.func.vmap(lambda t: torch.func.jvp(torch.exp, (x,), (t,))[1])(v)
        assert mode.current == 4 * KIB
    # exp(x) and the product with the four tangents
    assert 5 * KIB <= mode.peak <= 9 * KIB
    assert out.shape == (4, 256)


def _deep(depth: int, width: int = 64) -> nn.Sequential:
    layers = [nn.Sequential(nn.Linear(width, width, bias=False), nn.Tanh()) for _ in range(depth)]
    return nn.Sequential(*layers)


def _backprop_peak(model: nn.Sequential, x: Tensor, segments: bool) -> int:
    for p in model.parameters():
        p.grad = torch.zeros_like(p)  # the gradient is there before, so that only activations are counted
    with PeakBytes() as mode:
        y = x
        for layer in model:
            y = checkpoint(layer, y, use_reentrant=False) if segments else layer(y)
        y.sum().backward()
    return mode.peak


@pytest.mark.parametrize("segments", [False, True])
def test_backward_and_checkpointing_by_hand(segments: bool) -> None:
    depth, width, rows = 16, 64, 256
    activation = rows * width * 4
    peak = _backprop_peak(_deep(depth, width), torch.randn(rows, width), segments)
    # Tanh saves its output, Linear its input: the same storage. One activation per layer, kept by either way;
    # linear + tanh hold one more while a layer runs forward, a few more while it runs backward.
    assert depth * activation <= peak <= (depth + 6) * activation


def test_checkpointing_saves_what_it_should() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(64, 1024), nn.Linear(1024, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.tanh(self.up(x)))

    model, x = nn.Sequential(*[Wide() for _ in range(8)]), torch.randn(128, 64)
    plain, saved = _backprop_peak(model, x, False), _backprop_peak(model, x, True)
    assert saved < 0.5 * plain


def test_backward_from_another_thread_is_not_ours() -> None:
    with PeakBytes() as mode:
        worker = threading.Thread(target=lambda: _row(64))
        worker.start()
        worker.join()
    assert mode.peak == 0  # modes are per thread: what others do at the same time is not counted


def test_the_mode_leaves_results_and_gradients_alone() -> None:
    model, x = _deep(3), torch.randn(8, 64)
    model(x).sum().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with PeakBytes():
        model(x).sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(plain, model.parameters(), strict=True))


def test_an_error_inside_leaves_no_mode_behind() -> None:
    mode = PeakBytes()
    with pytest.raises(RuntimeError, match="mat1"), mode:
        torch.randn(2, 3) @ torch.randn(2, 3)
    before = mode.peak
    _row(64)
    assert mode.peak == before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's high-water mark")
def test_against_the_process() -> None:
    mib = KIB * KIB
    x = torch.ones(40 * mib // 4)  # above any threshold of glibc's: mapped one by one, so that no holes blur the figure

    def work() -> Tensor:
        y = [x + i for i in range(4)]
        return y[-1].sum()

    with PeakBytes() as mode:
        work()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what earlier tests left free in the heap would serve without growing the process
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the high-water mark cannot be reset here")
    before = _resident("VmRSS")
    work()
    process = _resident("VmHWM") - before
    assert mode.peak >= 160 * mib
    assert process == pytest.approx(mode.peak, rel=0.1)
