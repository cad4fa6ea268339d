"""Packed sequences: copying rows to and fro is linear, and the K tangents ride along as one more feature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forwardgrad.forward_ad.dual import Dual
from forwardgrad.forward_ad.registry import rule


@rule(torch._pack_padded_sequence)
def pack_padded_sequence(input: Dual, lengths: Tensor, batch_first: bool) -> Any:
    y, batch_sizes = torch._pack_padded_sequence(input.primal, lengths, batch_first)
    dy, _ = torch._pack_padded_sequence(input.dense().movedim(0, 2), lengths, batch_first)
    return [(y, dy.movedim(1, 0).contiguous()), batch_sizes]


@rule(torch._pad_packed_sequence)
def pad_packed_sequence(
    data: Dual, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> Any:
    y, lengths = torch._pad_packed_sequence(data.primal, batch_sizes, batch_first, padding_value, total_length)
    dy, _ = torch._pad_packed_sequence(data.dense().movedim(0, 1), batch_sizes, batch_first, 0.0, total_length)
    return [(y, dy.movedim(2, 0).contiguous()), lengths]
