"""The rarer activations against reverse mode, out of place and in place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

TANGENTS = pytest.mark.parametrize("k", [1, 3])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
LAYERS = [
    nn.ELU(0.7), nn.SELU(), nn.CELU(0.5), nn.LeakyReLU(0.2), nn.Hardtanh(-0.5, 0.7), nn.ReLU6(), nn.Hardswish(),
    nn.Hardsigmoid(), nn.Mish(), nn.Threshold(0.1, 20.0), nn.SiLU(), nn.ReLU(),
]  # fmt: skip


def spread(y: Tensor) -> Tensor:
    return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum()


@DTYPES
@TANGENTS
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layers(agrees, layer, inplace, k, dtype):
    layer.inplace = inplace

    def loss(p):
        x = p["x"] * 3
        return spread(layer(x)) + spread(x)

    agrees(loss, {"x": torch.randn(5, 6, dtype=dtype)}, k)


@DTYPES
@TANGENTS
@pytest.mark.parametrize("f", [F.logsigmoid, F.softsign, F.tanhshrink, F.softplus], ids=lambda f: f.__name__)
def test_functions(agrees, f, k, dtype):
    agrees(lambda p: spread(f(p["x"] * 3)), {"x": torch.randn(5, 6, dtype=dtype)}, k)


@DTYPES
@TANGENTS
@pytest.mark.parametrize("moving", ["x", "w", "xw"])
@pytest.mark.parametrize(("shape", "slopes"), [((5,), 1), ((5, 6), 6), ((2, 3, 4, 2), 3), ((2, 3, 4), 1)])
def test_prelu(agrees, shape, slopes, moving, k, dtype):
    held = {"x": torch.randn(shape, dtype=dtype), "w": torch.rand(slopes, dtype=dtype)}
    agrees(
        lambda p: spread(F.prelu(**dict(zip(("input", "weight"), {**held, **p}.values(), strict=True)))),
        {n: held[n] for n in moving},
        k,
    )
