"""Batch normalisation: values, slopes, and running statistics that move exactly once."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forwardgrad.forward_ad import push_forward

TANGENTS = pytest.mark.parametrize("k", [1, 3])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
MOVING = pytest.mark.parametrize("moving", ["".join(m) for r in (1, 2, 3) for m in itertools.combinations("xwb", r)])


def spread(y: Tensor) -> Tensor:
    return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum()


@DTYPES
@TANGENTS
@MOVING
@pytest.mark.parametrize("size", [(5, 4), (3, 4, 5), (2, 4, 3, 5), (2, 4, 2, 3, 2)])
@pytest.mark.parametrize("mode", ["train", "train without statistics", "eval"])
def test_batch_norm(agrees, mode, size, moving, k, dtype):
    held = {"x": 3 + torch.randn(size, dtype=dtype), "w": torch.randn(4, dtype=dtype), "b": torch.randn(4, dtype=dtype)}
    mean, var = torch.randn(4, dtype=dtype), torch.rand(4, dtype=dtype) + 0.5

    def loss(p):
        p = {**held, **p}
        stats = (None, None) if mode == "train without statistics" else (mean.clone(), var.clone())
        return spread(F.batch_norm(p["x"], *stats, p["w"], p["b"], mode != "eval", 0.1, 1e-3))

    agrees(loss, {n: held[n] for n in moving}, k)


@TANGENTS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_weight", [True, False])
def test_without_affine_parameters(agrees, with_weight, training, k):
    params = {"x": torch.randn(2, 4, 3, 5, dtype=torch.float64)}
    w = torch.randn(4, dtype=torch.float64) if with_weight else None
    mean, var = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.5
    agrees(lambda p: spread(F.batch_norm(p["x"], mean.clone(), var.clone(), w, None, training)), params, k)


@TANGENTS
@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_move_once_and_stay_plain(momentum, k):
    layer, twin = (nn.BatchNorm2d(4, momentum=momentum) for _ in range(2))
    for _ in range(3):
        x = torch.randn(2, 4, 3, 5)
        push_forward(lambda p: layer(p["x"]).sum(), {"x": x}, {"x": torch.randn(k, *x.shape)})
        twin(x)
    for (name, a), b in zip(layer.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b), name
        assert type(a) is Tensor


@TANGENTS
@pytest.mark.parametrize("training", [True, False])
def test_channels_last(agrees, training, k):
    layer = nn.BatchNorm2d(4).double().train(training)
    params = {"x": torch.randn(2, 4, 3, 5, dtype=torch.float64), "w": torch.randn(4, dtype=torch.float64)}

    def loss(p):
        x = p["x"].contiguous(memory_format=torch.channels_last)
        y = F.batch_norm(
            x, layer.running_mean.clone(), layer.running_var.clone(), p["w"], layer.bias.detach(), training
        )
        assert y.is_contiguous(memory_format=torch.channels_last)
        return spread(y)

    agrees(loss, params, k)


def test_one_value_a_channel_is_refused_as_stock_does():
    layer = nn.BatchNorm1d(4)
    before = {n: b.clone() for n, b in layer.named_buffers() if n != "num_batches_tracked"}
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        push_forward(lambda p: layer(p["x"]).sum(), {"x": torch.randn(1, 4)}, {"x": torch.randn(3, 1, 4)})
    assert all(torch.equal(b, getattr(layer, n)) for n, b in before.items())


@TANGENTS
def test_a_mean_far_from_zero_costs_no_precision_that_the_primal_keeps(agrees, k):
    params = {"x": 100 + torch.randn(8, 4, 6, 6), "w": torch.randn(4), "b": torch.randn(4)}
    agrees(lambda p: spread(F.batch_norm(p["x"], None, None, p["w"], p["b"], True)), params, k, tolerance=1e-4)
