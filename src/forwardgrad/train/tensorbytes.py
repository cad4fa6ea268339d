"""Tensors as bytes, of any dtype."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def tensor_bytes(tensor: Tensor) -> bytes:
    """The entries in order, as they lie in memory."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def checksum(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: equal for two models exactly when they are equal bit for bit."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def fingerprint(parts: Iterable[Iterable[Tensor]]) -> str:
    """SHA-256 of a data set: equal exactly when dtypes, shapes and entries are, in order."""
    digest = hashlib.sha256()
    for part in parts:
        for tensor in part:
            digest.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        digest.update(b"\n")
    return digest.hexdigest()
