"""Eight truth values a byte, and back."""

from __future__ import annotations

import pytest
import torch

from forwardgrad.exact.rules.activation import chosen, packed


@pytest.mark.parametrize("shape", [(8,), (3, 5), (2, 4, 8), (1,), (0,)])
def test_what_is_packed_comes_out_again(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    bits = packed(mask)
    assert bits.data.numel() == -(-mask.numel() // 8) and bits.data.dtype == torch.uint8
    assert torch.equal(chosen(bits, 0.1, 1.0, torch.float64), torch.where(mask, 1.0, 0.1).double().where(mask, 0.1))


def test_every_byte():
    mask = torch.arange(256)[:, None] >> torch.arange(8) & 1 == 1
    assert torch.equal(packed(mask).data, torch.arange(256, dtype=torch.uint8))
    assert torch.equal(chosen(packed(mask), -1.0, 1.0, torch.float32) > 0, mask)
