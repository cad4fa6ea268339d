"""Layer, group, instance and root-mean-square normalisation against reverse mode."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad import push_forward

TANGENTS = pytest.mark.parametrize("k", [1, 3])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
# Which of input, weight and bias carry tangents.
MOVING = pytest.mark.parametrize("moving", ["".join(m) for r in (1, 2, 3) for m in itertools.combinations("xwb", r)])


def spread(y: Tensor) -> Tensor:
    return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum()


def split(moving: str, **all_params: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return {n: x for n, x in all_params.items() if n in moving}, all_params


@DTYPES
@TANGENTS
@MOVING
@pytest.mark.parametrize("shape", [(7,), (3, 7)])
def test_layer_norm(agrees, shape, moving, k, dtype):
    params, held = split(
        moving,
        x=torch.randn(2, 3, 7, dtype=dtype),
        w=torch.randn(shape, dtype=dtype),
        b=torch.randn(shape, dtype=dtype),
    )

    def loss(p):
        p = {**held, **p}
        return spread(F.layer_norm(p["x"], shape, p["w"], p["b"], 1e-3))

    agrees(loss, params, k)


@TANGENTS
@pytest.mark.parametrize("affine", ["", "w"])
def test_layer_norm_with_fewer_parameters(agrees, affine, k):
    params = {"x": torch.randn(4, 7, dtype=torch.float64), "w": torch.randn(7, dtype=torch.float64)}
    agrees(lambda p: spread(F.layer_norm(p["x"], (7,), p["w"] if affine else None)) + 0 * p["w"].sum(), params, k)


@DTYPES
@TANGENTS
@MOVING
@pytest.mark.parametrize(
    ("size", "groups"), [((2, 6), 2), ((2, 6, 5), 2), ((2, 6, 3, 4), 3), ((2, 6, 3, 4), 6), ((2, 6, 2, 3, 2), 1)]
)
def test_group_norm(agrees, size, groups, moving, k, dtype):
    params, held = split(
        moving, x=torch.randn(size, dtype=dtype), w=torch.randn(6, dtype=dtype), b=torch.randn(6, dtype=dtype)
    )

    def loss(p):
        p = {**held, **p}
        return spread(F.group_norm(p["x"], groups, p["w"], p["b"]))

    agrees(loss, params, k)


@DTYPES
@TANGENTS
@MOVING
@pytest.mark.parametrize("size", [(2, 6, 5), (2, 6, 3, 4), (2, 6, 2, 3, 2)])
@pytest.mark.parametrize("own_statistics", [True, False])
def test_instance_norm(agrees, own_statistics, size, moving, k, dtype):
    params, held = split(
        moving, x=torch.randn(size, dtype=dtype), w=torch.randn(6, dtype=dtype), b=torch.randn(6, dtype=dtype)
    )
    mean, var = torch.randn(6, dtype=dtype), torch.rand(6, dtype=dtype) + 0.5

    def loss(p):
        p = {**held, **p}
        return spread(F.instance_norm(p["x"], mean.clone(), var.clone(), p["w"], p["b"], own_statistics))

    agrees(loss, params, k)


def test_instance_norm_updates_its_statistics_once():
    layer, twin = (torch.nn.InstanceNorm2d(3, affine=True, track_running_stats=True) for _ in range(2))
    x = torch.randn(4, 3, 5, 5)
    push_forward(lambda p: layer(p["x"]).sum(), {"x": x}, {"x": torch.randn(3, *x.shape)})
    twin(x)
    for a, b in zip(layer.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)
        assert type(a) is Tensor


@DTYPES
@TANGENTS
@pytest.mark.parametrize("moving", ["x", "w", "xw"])
@pytest.mark.parametrize("shape", [(7,), (3, 7)])
@pytest.mark.parametrize("eps", [None, 1e-2])
def test_rms_norm(agrees, eps, shape, moving, k, dtype):
    params, held = split(moving, x=torch.randn(2, 3, 7, dtype=dtype), w=torch.randn(shape, dtype=dtype))

    def loss(p):
        p = {**held, **p}
        return spread(F.rms_norm(p["x"], shape, p["w"], eps))

    agrees(loss, params, k)


@TANGENTS
def test_channels_last_and_strided_inputs(agrees, k):
    params = {"x": torch.randn(2, 6, 3, 4, dtype=torch.float64), "w": torch.randn(6, dtype=torch.float64)}

    def loss(p):
        x = p["x"].contiguous(memory_format=torch.channels_last)
        y = F.group_norm(x, 3, p["w"])
        return spread(y) + spread(F.layer_norm(p["x"].permute(0, 2, 3, 1), (6,), p["w"]))

    agrees(loss, params, k)


@TANGENTS
@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # stock's word on a bfloat16 input with float32 weights
@pytest.mark.parametrize("norm", ["layer_norm", "group_norm", "rms_norm"])
def test_half_precision_under_autocast(norm, k):
    """Inside autocast an activation is bfloat16 and the affine parameters float32."""
    params = {"x": torch.randn(4, 8), "w": torch.randn(8), "b": torch.randn(8)}
    v = {name: torch.randn(k, *p.shape) for name, p in params.items()}

    def loss(p, half):
        x = p["x"].bfloat16() if half else p["x"]
        if norm == "group_norm":
            y = F.group_norm(x, 2, p["w"], p["b"])
        elif norm == "layer_norm":
            y = F.layer_norm(x, (8,), p["w"], p["b"])
        else:
            y = F.rms_norm(x, (8,), p["w"])
        return (y.float() * torch.arange(32.0).view(4, 8).cos()).sum() + 0 * p["b"].sum()

    exact = push_forward(lambda p: loss(p, False), params, v)
    with torch.autocast("cpu", torch.bfloat16):
        pushed = push_forward(lambda p: loss(p, True), params, v)
    torch.testing.assert_close(pushed.slopes, exact.slopes, rtol=0.05, atol=0.15)


@pytest.mark.parametrize("weight", [torch.ones(1), torch.ones(3, 1)], ids=["one", "a column"])
def test_a_weight_that_would_broadcast_is_refused_as_pytorch_refuses_it(weight):
    x = torch.randn(3, 4)
    with pytest.raises(RuntimeError, match="weight"):
        push_forward(lambda p: F.rms_norm(p["x"], (4,), weight).sum(), {"x": x}, {"x": torch.randn(2, 3, 4)})
