"""Pooling, resampling, padding and normalising against reverse mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

TANGENTS = pytest.mark.parametrize("k", [1, 3])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
BATCHES = pytest.mark.parametrize("batched", [True, False], ids=["batch", "sample"])

LINE, IMAGE, VOLUME = (8,), (6, 8), (4, 6, 5)
MAPS = {
    "avg_pool1d": (LINE, lambda x: F.avg_pool1d(x, 3, 2, 1, ceil_mode=True)),
    "avg_pool2d": (IMAGE, lambda x: F.avg_pool2d(x, (3, 2), 2, 1, count_include_pad=False)),
    "avg_pool3d": (VOLUME, lambda x: F.avg_pool3d(x, 2, divisor_override=3)),
    "adaptive_avg_pool1d": (LINE, lambda x: F.adaptive_avg_pool1d(x, 3)),
    "adaptive_avg_pool2d": (IMAGE, lambda x: F.adaptive_avg_pool2d(x, (4, None))),
    "adaptive_avg_pool2d to one": (IMAGE, lambda x: F.adaptive_avg_pool2d(x, 1)),
    "adaptive_avg_pool3d": (VOLUME, lambda x: F.adaptive_avg_pool3d(x, (2, 3, 1))),
    "max_pool1d": (LINE, lambda x: F.max_pool1d(x, 3, 2, 1)),
    "max_pool2d": (IMAGE, lambda x: F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)),
    "max_pool2d dilated": (IMAGE, lambda x: F.max_pool2d(x, 2, dilation=2)),
    "max_pool2d with indices": (IMAGE, lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "max_pool2d from torch": (IMAGE, lambda x: torch.max_pool2d(x, 2)),
    "max_pool3d": (VOLUME, lambda x: F.max_pool3d(x, 2)),
    "adaptive_max_pool1d": (LINE, lambda x: F.adaptive_max_pool1d(x, 3)),
    "adaptive_max_pool2d": (IMAGE, lambda x: F.adaptive_max_pool2d(x, (3, 2))),
    "adaptive_max_pool3d": (VOLUME, lambda x: F.adaptive_max_pool3d(x, 2)),
    "fractional_max_pool2d": (IMAGE, lambda x: F.fractional_max_pool2d(x, 2, output_ratio=(0.6, 0.7))),
    "fractional_max_pool3d": (VOLUME, lambda x: F.fractional_max_pool3d(x, 2, output_size=2)),
    "pixel_shuffle": (IMAGE, lambda x: F.pixel_shuffle(x, 2)),
    "pixel_unshuffle": (IMAGE, lambda x: F.pixel_unshuffle(x, 2)),
    "unfold": (IMAGE, lambda x: F.unfold(x, 3, padding=1)),
    "pad with a constant": (IMAGE, lambda x: F.pad(x, (1, 2), value=3.0)),
    "pad by reflection": (IMAGE, lambda x: F.pad(x, (1, 2, 2, 0), mode="reflect")),
    "pad by replication": (LINE, lambda x: F.pad(x, (1, 2), mode="replicate")),
    "pad in a circle": (VOLUME, lambda x: F.pad(x, (1, 2, 1, 0, 0, 1), mode="circular")),
}
BATCHES_ONLY = {
    "fold": (LINE, lambda x: F.fold(x, (3, 5), 2)),
    "channel_shuffle": (IMAGE, lambda x: F.channel_shuffle(x, 2)),
    "interpolate nearest": (IMAGE, lambda x: F.interpolate(x, scale_factor=2)),
    "interpolate linear": (LINE, lambda x: F.interpolate(x, 5, mode="linear")),
    "interpolate bilinear": (IMAGE, lambda x: F.interpolate(x, size=(9, 5), mode="bilinear", align_corners=True)),
    "interpolate bilinear, antialiased": (
        IMAGE,
        lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True),
    ),
    "interpolate bicubic": (IMAGE, lambda x: F.interpolate(x, scale_factor=(1.5, 0.7), mode="bicubic")),
    "interpolate trilinear": (VOLUME, lambda x: F.interpolate(x, scale_factor=1.5, mode="trilinear")),
    "interpolate area": (IMAGE, lambda x: F.interpolate(x, size=(3, 4), mode="area")),
    "nn.Upsample": (IMAGE, torch.nn.Upsample(scale_factor=2, mode="bilinear")),
    "normalize": (IMAGE, F.normalize),
    "normalize the last": (IMAGE, lambda x: F.normalize(x, dim=-1, eps=2.0)),
}


def spread(y: Tensor) -> Tensor:
    return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum()


@DTYPES
@TANGENTS
@BATCHES
@pytest.mark.parametrize("name", MAPS)
def test_map(agrees, name, batched, k, dtype):
    shape, f = MAPS[name]
    agrees(lambda p: spread(f(p["x"])), {"x": torch.randn(*([2] if batched else []), 4, *shape, dtype=dtype)}, k)


@DTYPES
@TANGENTS
@pytest.mark.parametrize("name", BATCHES_ONLY)
def test_map_of_batches(agrees, name, k, dtype):
    shape, f = BATCHES_ONLY[name]
    agrees(lambda p: spread(f(p["x"])), {"x": torch.randn(2, 4, *shape, dtype=dtype)}, k)


@pytest.mark.parametrize("name", [n for n in {**MAPS, **BATCHES_ONLY} if {**MAPS, **BATCHES_ONLY}[n][0] == IMAGE])
def test_channels_last(agrees, name):
    f = {**MAPS, **BATCHES_ONLY}[name][1]

    def loss(p):
        return spread(f(p["x"].contiguous(memory_format=torch.channels_last)))

    agrees(loss, {"x": torch.randn(2, 4, *IMAGE, dtype=torch.float64)}, 3)


def test_indices_are_stock_s(agrees):
    x = torch.randn(2, 4, 6, 8, dtype=torch.float64)

    def loss(p):
        y, index = F.max_pool2d(p["x"], 2, return_indices=True)
        assert torch.equal(index, F.max_pool2d(x, 2, return_indices=True)[1])
        return spread(y)

    agrees(loss, {"x": x}, 2)


@TANGENTS
@pytest.mark.parametrize("p", [1.0, 3.0])
def test_other_norms_fall_back(agrees, p, k):
    agrees(
        lambda q: spread(F.normalize(q["x"], p=p)), {"x": torch.randn(2, 4, 5, dtype=torch.float64)}, k, fallbacks=True
    )


@TANGENTS
@pytest.mark.parametrize(
    "f",
    [
        lambda x: F.lp_pool2d(x, 2.0, 2),
        lambda x: F.local_response_norm(x, 2),
        lambda x: F.max_unpool2d(x, torch.arange(48).view(1, 1, 6, 8).expand(2, 4, 6, 8).contiguous() * 4, 2),
    ],
    ids=["lp_pool", "lrn", "unpool"],
)
def test_rare_ones_fall_back(agrees, f, k):
    agrees(lambda p: spread(f(p["x"])), {"x": torch.rand(2, 4, *IMAGE, dtype=torch.float64) + 0.1}, k, fallbacks=True)
