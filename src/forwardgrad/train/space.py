"""Whether a disk has room for what a run will save, asked before its first step."""

from __future__ import annotations

import shutil

from torch import nn

from forwardgrad.errors import OutputError
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.replaylog import CRC_BYTES
from forwardgrad.train.state import Moving

_BESIDE = 1 << 16  # bytes of a checkpoint that are no weights: random states, the curve, the header
_SLOPE = 8  # bytes of a slope at most
_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def checkpoint_bytes(moving: Moving, momentum: float) -> int:
    """About what one checkpoint will take: weights, the best ones, and what optimizer and method keep.

    Args:
        moving: the run.
        momentum: of its optimizer.
    """
    state = sum(tensor.numel() * tensor.element_size() for tensor in moving.model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in moving.model.parameters())
    copies = (momentum > 0) + isinstance(moving.method, nn.Module)
    return 2 * state + copies * trained + _BESIDE


def log_bytes(moving: Moving, num_tangents: int) -> int:
    """At most what the steps still to come will add to a replay log.

    Args:
        moving: the run.
        num_tangents: K.
    """
    return (moving.steps - moving.step) * (num_tangents * _SLOPE + CRC_BYTES)


def check_space(output: OutputFolder, needed: int) -> None:
    """Refuses a disk that would be full before the run is done.

    Args:
        output: a folder that exists.
        needed: bytes.

    Raises:
        OutputError: less is free; the sentence has both numbers.
    """
    free = shutil.disk_usage(output.path).free
    if free < needed:
        needs = f"saving this run needs {decimal(needed)} of disk (checkpoints and slopes)"
        cure = "free some space, keep fewer checkpoints, or choose another folder with --out"
        raise OutputError(needs, f"{decimal(free)} free", cure, path=str(output.path))


def decimal(count: int) -> str:
    """Bytes as disks are sold."""
    unit, size = next(((unit, size) for unit, size in _UNITS if count >= size), ("B", 1))
    return f"{count} B" if size == 1 else f"{count / size:.1f} {unit}"
