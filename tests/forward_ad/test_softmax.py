"""Softmax and log-softmax: every way to call them, every dimension, few and many tangents."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad import push_forward
from forwardgrad.forward_ad.rules.softmax import FEW
from forwardgrad.tangents.kinds import Dense, RankOne

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
TANGENTS = pytest.mark.parametrize("k", [1, 4])
CALLS = [torch.softmax, Tensor.softmax, F.softmax, torch.log_softmax, Tensor.log_softmax, F.log_softmax]


def spread(y: Tensor) -> Tensor:
    """A scalar that sees every entry differently."""
    return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum()


@DTYPES
@TANGENTS
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("call", CALLS, ids=lambda f: f.__qualname__)
def test_every_call_and_dimension(agrees, call, dim, k, dtype):
    x = {"x": torch.randn(3, 5, 4, dtype=dtype)}
    agrees(lambda p: spread(call(p["x"], dim)), x, k)


@pytest.mark.parametrize("call", [torch.softmax, torch.log_softmax])
@pytest.mark.parametrize("kind", [Dense, RankOne])
@TANGENTS
def test_large_ones(agrees, call, k, kind):
    x = {"x": torch.randn(FEW // 64, 80, dtype=torch.float64)}
    agrees(lambda p: spread(call(p["x"], -1)), x, k, kind)
    agrees(lambda p: spread(call(p["x"].t(), -1)), x, k, kind)


@pytest.mark.parametrize("call", [F.softmax, F.log_softmax])
def test_a_masked_entry_and_a_shifted_row_do_no_harm(agrees, call):
    x = {"x": torch.randn(6, 9, dtype=torch.float64)}
    mask = torch.rand(6, 9) > 0.6
    agrees(lambda p: spread(F.softmax(p["x"].masked_fill(mask, -torch.inf), -1)), x)
    agrees(lambda p: spread(call(p["x"] + 1e4, -1)), x)


@pytest.mark.parametrize("call", [torch.softmax, F.softmax, torch.log_softmax, F.log_softmax])
def test_dtype_argument(call):
    x, v = torch.randn(4, 16).bfloat16(), torch.randn(2, 4, 16).bfloat16()
    pushed = push_forward(lambda x: call(x, dim=-1, dtype=torch.float32), (x,), (v,))
    wide = push_forward(lambda x: call(x, dim=-1), (x.float(),), (v.float(),))
    assert pushed.value.dtype == pushed.slopes.dtype == torch.float32
    torch.testing.assert_close(pushed.value, wide.value)
    torch.testing.assert_close(pushed.slopes, wide.slopes)


def test_a_number_is_its_own_certainty():
    for call, value in ((torch.softmax, 1.0), (torch.log_softmax, 0.0)):
        pushed = push_forward(lambda x, call=call: call(x, 0), (torch.tensor(0.3),), (torch.ones(2),))
        assert pushed.value == value
        assert pushed.slopes.tolist() == [0.0, 0.0]
