"""Losses against reverse mode: every kind of target, weight and reduction, and cross-entropy's memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad import push_forward
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.forward_ad.rules import losses

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
TANGENTS = pytest.mark.parametrize("k", [1, 3])


def spread(y: Tensor) -> Tensor:
    """A scalar that sees every entry differently."""
    return (y * torch.arange(1, y.numel() + 1, dtype=y.dtype).view(y.shape).cos()).sum()


@pytest.fixture(params=[(1 << 20, 1 << 14), (1 << 20, 0), (200, 0)], ids=["few", "one block", "many blocks"])
def block(request, monkeypatch):
    size, few = request.param
    monkeypatch.setitem(losses.BLOCK_BYTES, "cpu", size)
    monkeypatch.setattr(losses, "FEW", few)


@DTYPES
@REDUCTIONS
@TANGENTS
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(7, 5), (5,), (3, 5, 2, 4)], ids=["rows", "one", "spatial"])
def test_class_indices(agrees, block, shape, weighted, smoothing, k, reduction, dtype):
    x = {"x": torch.randn(shape, dtype=dtype)}
    target = torch.randint(5, shape[:1] + shape[2:] if len(shape) > 1 else ())
    if target.numel() > 1:
        target.view(-1)[::4] = -100
    weight = torch.rand(5, dtype=dtype) if weighted else None

    def loss(p):
        return spread(F.cross_entropy(p["x"], target, weight, reduction=reduction, label_smoothing=smoothing))

    agrees(loss, x, k)


@DTYPES
@REDUCTIONS
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(7, 5), (5,), (3, 5, 2, 4)], ids=["rows", "one", "spatial"])
def test_class_probabilities(agrees, block, shape, weighted, smoothing, reduction, dtype):
    x = {"x": torch.randn(shape, dtype=dtype)}
    target = torch.rand(shape, dtype=dtype)
    weight = torch.rand(5, dtype=dtype) if weighted else None

    def loss(p):
        return spread(F.cross_entropy(p["x"], target, weight, reduction=reduction, label_smoothing=smoothing))

    agrees(loss, x)


@REDUCTIONS
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(7, 5), (5,)], ids=["rows", "one"])
def test_a_teacher_that_moves(agrees, shape, smoothing, reduction):
    x = {"x": torch.randn(shape, dtype=torch.float64), "t": torch.randn(shape, dtype=torch.float64)}
    weight = torch.rand(5, dtype=torch.float64)

    def loss(p):
        soft = p["t"].softmax(-1)
        return spread(F.cross_entropy(p["x"], soft, weight, reduction=reduction, label_smoothing=smoothing))

    agrees(loss, x)


@pytest.mark.filterwarnings("ignore:size_average and reduce")
def test_another_ignore_index_and_legacy_arguments(agrees):
    x = {"x": torch.randn(6, 5, dtype=torch.float64)}
    target = torch.tensor([0, 1, 2, 2, 4, 3])
    agrees(lambda p: F.cross_entropy(p["x"], target, ignore_index=2), x)
    agrees(lambda p: F.cross_entropy(p["x"], target, size_average=False), x)


def test_nothing_but_ignored_rows_is_nan_as_in_stock():
    x, target = torch.randn(3, 5), torch.full((3,), -100)
    pushed = push_forward(lambda x: F.cross_entropy(x, target), (x,), (torch.randn(2, 3, 5),))
    assert pushed.value.isnan()
    pushed = push_forward(lambda x: F.cross_entropy(x, target, reduction="sum"), (x,), (torch.randn(2, 3, 5),))
    assert pushed.value == 0
    assert not pushed.slopes.any()


def test_wrong_targets_are_refused_by_stock_itself():
    x, v = torch.randn(3, 5), torch.randn(2, 3, 5)
    with pytest.raises((ValueError, RuntimeError)):
        push_forward(lambda x: F.cross_entropy(x, torch.zeros(4, dtype=torch.long)), (x,), (v,))


def test_low_precision_sums_in_float32():
    x, v, target = torch.randn(4096, 16), torch.randn(2, 4096, 16), torch.randint(16, (4096,))
    x, v = x.bfloat16(), v.bfloat16()
    low = push_forward(lambda x: F.cross_entropy(x, target), (x,), (v,))
    high = push_forward(lambda x: F.cross_entropy(x, target), (x.double(),), (v.double(),))
    assert low.slopes.dtype == torch.bfloat16
    torch.testing.assert_close(low.value.double(), high.value, rtol=2**-8, atol=0)
    torch.testing.assert_close(low.slopes.double(), high.slopes, rtol=2**-8, atol=0)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("soft", [False, True])
def test_no_second_buffer_of_the_vocabulary(k, soft):
    rows, classes = 512, 4096
    x, v = torch.randn(rows, classes), torch.randn(k, rows, classes)
    target = torch.rand(rows, classes) if soft else torch.randint(classes, (rows,))
    with PeakBytes() as memory:
        push_forward(lambda x: F.cross_entropy(x, target), (x,), (v,))
    assert memory.peak <= 5 * losses.BLOCK_BYTES["cpu"] < x.numel() * 4


@DTYPES
@REDUCTIONS
@TANGENTS
@pytest.mark.parametrize("weighted", [False, True])
def test_nll_loss(agrees, weighted, k, reduction, dtype):
    weight = torch.rand(5, dtype=dtype) if weighted else None
    for shape in ((7, 5), (2, 5, 3)):
        target = torch.randint(5, shape[:1] + shape[2:])
        target[0] = -100
        x = {"x": torch.randn(shape, dtype=dtype)}
        agrees(lambda p, t=target: spread(F.nll_loss(p["x"].log_softmax(1), t, weight, reduction=reduction)), x, k)


PAIRWISE = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": lambda x, t, **o: F.smooth_l1_loss(x, t, beta=0.7, **o),
    "huber": lambda x, t, **o: F.huber_loss(x, t, delta=0.7, **o),
}


@DTYPES
@REDUCTIONS
@TANGENTS
@pytest.mark.parametrize("loss", PAIRWISE.values(), ids=PAIRWISE)
def test_losses_of_a_difference(agrees, loss, k, reduction, dtype):
    x = {"x": torch.randn(4, 6, dtype=dtype), "t": torch.randn(4, 6, dtype=dtype)}
    fixed = torch.randn(4, 6, dtype=dtype)
    agrees(lambda p: spread(loss(p["x"], fixed, reduction=reduction)), {"x": x["x"]}, k)
    agrees(lambda p: spread(loss(fixed, p["t"], reduction=reduction)), {"t": x["t"]}, k)
    agrees(lambda p: spread(loss(p["x"], p["t"], reduction=reduction)), x, k)


def test_weighted_and_broadcast_squares(agrees):
    x, target = {"x": torch.randn(4, 6, dtype=torch.float64)}, torch.randn(4, 6, dtype=torch.float64)
    agrees(lambda p: F.mse_loss(p["x"], target, weight=target.square()), x)
    with pytest.warns(UserWarning, match="target size"):
        agrees(lambda p: F.mse_loss(p["x"], target[:1]), x)
    agrees(lambda p: F.mse_loss(p["x"].sum(), target[0, 0]), x)


@DTYPES
@REDUCTIONS
@TANGENTS
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropy(agrees, weighted, k, reduction, dtype):
    x, target = {"x": torch.randn(4, 6, dtype=dtype)}, torch.rand(4, 6, dtype=dtype)
    weight = torch.rand(4, 6, dtype=dtype) if weighted else None
    more = torch.rand(6, dtype=dtype) * 3 if weighted else None
    agrees(lambda p: spread(F.binary_cross_entropy(p["x"].sigmoid(), target, weight, reduction=reduction)), x, k)

    def with_logits(p):
        return spread(F.binary_cross_entropy_with_logits(p["x"], target, weight, pos_weight=more, reduction=reduction))

    agrees(with_logits, x, k)


@DTYPES
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batchmean"])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_kl_div(agrees, log_target, reduction, dtype):
    x = {"x": torch.randn(4, 6, dtype=dtype)}
    target = torch.randn(4, 6, dtype=dtype).log_softmax(-1)
    target = target if log_target else target.exp()

    def loss(p):
        return spread(F.kl_div(p["x"].log_softmax(-1), target, reduction=reduction, log_target=log_target))

    agrees(loss, x)


def test_targets_that_move_where_no_rule_says_how(agrees):
    """The fallback is right there; it is counted."""
    x = {"x": torch.randn(4, 6, dtype=torch.float64), "t": torch.randn(4, 6, dtype=torch.float64)}
    agrees(lambda p: F.kl_div(p["x"].log_softmax(-1), p["t"].softmax(-1), reduction="sum"), x, fallbacks=True)
    agrees(lambda p: F.binary_cross_entropy_with_logits(p["x"], p["t"].sigmoid()), x, fallbacks=True)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: F.cross_entropy(x, torch.arange(4)),
        lambda x: F.nll_loss(x.log_softmax(-1), torch.arange(4)),
        lambda x: F.mse_loss(x, torch.ones(4, 6, dtype=x.dtype)),
        lambda x: F.l1_loss(x, torch.ones(4, 6, dtype=x.dtype)),
        lambda x: F.binary_cross_entropy_with_logits(x, torch.ones(4, 6)),
        lambda x: F.kl_div(x.log_softmax(-1), torch.ones(4, 6), reduction="sum"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_leaves_losses_in_float32(loss, dtype):
    x = torch.randn(4, 6).to(dtype)
    v = torch.randn(3, 4, 6).to(dtype)
    wide = push_forward(loss, (x.float(),), (v.float(),))
    with torch.autocast("cpu", torch.bfloat16):
        pushed, stock = push_forward(loss, (x,), (v,)), loss(x)
    assert pushed.value.dtype == pushed.slopes.dtype == stock.dtype == torch.float32
    exact = dtype == torch.float32
    torch.testing.assert_close(pushed.value, wide.value, rtol=1e-6 if exact else 1e-2, atol=0)
    torch.testing.assert_close(pushed.slopes, wide.slopes, rtol=1e-5 if exact else 5e-2, atol=1e-6 if exact else 1e-2)
