"""Two looks at the memory of a running method: what it offers to the tape, and what the process holds."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from forwardgrad.forward_ad.peak import storages

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def tape_bytes(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Counts the bytes that a block offers to autograd's tape, each storage once.

    Args:
        model: its parameters and buffers are alive anyway and are left out.

    Yields:
        A function that tells the bytes so far.
    """
    known = {storage._cdata for tensor in (*model.parameters(), *model.buffers()) for storage in storages(tensor)}
    offered: dict[int, weakref.ref[Any]] = {}
    total = 0

    def forget(address: int) -> Callable[[Any], None]:
        # An address counts again once its storage is gone.
        def gone(_: Any) -> None:
            offered.pop(address, None)

        return gone

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        for storage in storages(tensor):
            address = storage._cdata
            if address not in known and address not in offered:
                offered[address] = weakref.ref(storage, forget(address))
                total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: total


def _resident(field: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def process_peak(work: Callable[[], Any], device: torch.device) -> int | None:
    """Runs `work` and tells how far the high-water mark rose: of resident memory, or of the CUDA allocator.

    Args:
        work: called once; what it returns is dropped.
        device: where the model lives.

    Returns:
        Bytes above what was held before; None where the system has no such figure.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with suppress(AttributeError, OSError, TypeError):
        # Pages that the C library keeps for later would hide as much of the growth.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR_REFS.write_text("5")  # the high-water mark starts again from what is resident now
        before = _resident("VmRSS")
    except (OSError, StopIteration):
        return None
    work()
    return max(0, _resident("VmHWM") - before)
