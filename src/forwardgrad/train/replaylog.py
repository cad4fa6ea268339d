r"""The replay log: slopes alone, from which the weights can be made again without data or a forward pass.

A forward-only step is decided by its key and its K slopes: :math:`\theta \leftarrow \theta - \eta \sum_k w_k(c) v_k`
with tangents drawn from the key. The log is one line of JSON (config, seed, dtype, K, names of the parameters that
move), then for every step the bytes of its slopes and their CRC-32. The key is (seed, step).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forwardgrad.errors import CheckpointError

FORMAT = "forwardgrad.replay/1"
FOLDER, SUFFIX = "replay", ".replay"
CRC_BYTES = 4
_LONGEST_HEADER = 1 << 24


@dataclass(frozen=True)
class Header:
    """What all steps of a log share.

    Args:
        config: of the run, resolved.
        seed: of weights and tangents.
        steps: of the whole run, on which the schedule depends.
        label: of the run.
        dtype: of the slopes, as torch prints it,
        num_tangents: and how many a step has.
        names: parameters that the gradient reached.
        format: of the file.
    """

    config: dict[str, Any]
    seed: int
    steps: int
    label: str
    dtype: str
    num_tangents: int
    names: list[str]
    format: str = FORMAT

    @property
    def line(self) -> bytes:
        """The first line of the file."""
        return (json.dumps(asdict(self)) + "\n").encode()

    @property
    def stride(self) -> int:
        """Bytes of a step."""
        return self.num_tangents * _dtype(self.dtype).itemsize + CRC_BYTES


@dataclass(frozen=True)
class ReplayLog:
    """A log read back: its header and the slopes [steps, K]; what was written only half is left out."""

    header: Header
    slopes: Tensor
    num_bytes: int


def read(path: Path) -> ReplayLog:
    """The log in a file, up to the first step that is not whole.

    Raises:
        CheckpointError: it cannot be read, or its first line is not that of a replay log.
    """
    needs, cure = "a replay needs the log of a run", "name a run of a forward-only method with plain SGD"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(needs, error.strerror or str(error), cure, path=str(path)) from error
    end = data.find(b"\n", 0, _LONGEST_HEADER) + 1
    try:
        tree = json.loads(data[:end])
        if tree["format"] != FORMAT:
            raise ValueError(f"format {tree['format']}")
        header = Header(**tree)
        dtype = _dtype(header.dtype)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(needs, f"something else ({error})", cure, path=str(path)) from error
    kept = bytearray()
    for start in range(end, len(data) - header.stride + 1, header.stride):
        slopes, crc = (
            data[start : start + header.stride - CRC_BYTES],
            data[start + header.stride - CRC_BYTES :][:CRC_BYTES],
        )
        if zlib.crc32(slopes) != int.from_bytes(crc, "little"):
            break
        kept += slopes
    flat = torch.frombuffer(kept, dtype=dtype) if kept else torch.empty(0, dtype=dtype)
    return ReplayLog(header, flat.view(-1, header.num_tangents), len(data))


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype {name}")
    return found
