"""Convolutions of every dimension, option and kind of tangent, against reverse mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad import push_forward
from forwardgrad.tangents.kinds import Dense, RankOne

KINDS = pytest.mark.parametrize("kind", [Dense, RankOne])
TANGENTS = pytest.mark.parametrize("k", [1, 3])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])

OPTIONS = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": "same", "dilation": 2},
    {"padding": "valid"},
    {"groups": 2, "padding": 1},
    {"groups": 4, "stride": 2, "padding": 1},  # depthwise, with two outputs a group
]


def spread(y: Tensor) -> Tensor:
    """A scalar that sees every entry differently."""
    return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum()


def conv_params(
    dims: int, groups: int, dtype: torch.dtype, transposed: bool = False, batched: bool = True
) -> dict[str, Tensor]:
    kernel = (4, 8 // groups) if transposed else (8, 4 // groups)
    return {
        "x": torch.randn(*([2] if batched else []), 4, *(5, 6, 4)[:dims], dtype=dtype),
        "w": torch.randn(*kernel, *(3, 3, 2)[:dims], dtype=dtype),
        "b": torch.randn(8, dtype=dtype),
    }


@DTYPES
@KINDS
@TANGENTS
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_conv(agrees, dims, options, k, kind, dtype):
    conv = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    params = conv_params(dims, options.get("groups", 1), dtype)
    agrees(lambda p: spread(conv(p["x"], p["w"], p["b"], **options)), params, k, kind)


@DTYPES
@KINDS
@TANGENTS
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1, "output_padding": 1}, {"groups": 2}, {"groups": 4, "dilation": 2}],
    ids=str,
)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_conv(agrees, dims, options, k, kind, dtype):
    conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
    params = conv_params(dims, options.get("groups", 1), dtype, transposed=True)
    agrees(lambda p: spread(conv(p["x"], p["w"], p["b"], **options)), params, k, kind)


@KINDS
@TANGENTS
@pytest.mark.parametrize("moving", ["x", "w", "b", "xw", "wb", "xb"])
def test_only_some_move(agrees, moving, k, kind):
    params = conv_params(2, 1, torch.float64)
    held = {name: x for name, x in params.items() if name not in moving}
    agrees(
        lambda p: spread(
            F.conv2d(**dict(zip(("input", "weight", "bias"), {**params, **held, **p}.values(), strict=True)))
        ),
        {n: params[n] for n in moving},
        k,
        kind,
    )


@KINDS
@pytest.mark.parametrize("transposed", [False, True])
def test_one_sample_without_a_batch(agrees, transposed, kind):
    params = conv_params(2, 1, torch.float64, transposed, batched=False)
    conv = F.conv_transpose2d if transposed else F.conv2d
    agrees(lambda p: spread(conv(p["x"], p["w"], p["b"])), params, 3, kind)


@KINDS
@TANGENTS
@pytest.mark.parametrize("transposed", [False, True])
def test_torch_convolution(agrees, transposed, k, kind):
    params = conv_params(2, 2, torch.float64, transposed)
    agrees(
        lambda p: spread(torch.convolution(p["x"], p["w"], p["b"], (2, 1), (1, 1), (1, 1), transposed, (0, 0), 2)),
        params,
        k,
        kind,
    )


@KINDS
@TANGENTS
def test_channels_last(agrees, k, kind):
    params = conv_params(2, 1, torch.float64)

    def loss(p):
        x = p["x"].contiguous(memory_format=torch.channels_last)
        y = F.conv2d(x, p["w"], p["b"], padding=1)
        assert y.is_contiguous(memory_format=torch.channels_last)
        return spread(F.conv2d(F.relu(y), torch.ones(2, 4, 3, 3, dtype=y.dtype), groups=2))

    agrees(loss, params, k, kind)


@TANGENTS
@pytest.mark.parametrize("options", OPTIONS[:5], ids=str)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_many_channels_and_few_taps(agrees, dims, options, k):
    """Where the one-channel kernels take the way over products."""
    conv = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    groups = options.get("groups", 1)
    params = {
        "x": torch.randn(2, 72 * groups, *(5, 6, 4)[:dims], dtype=torch.float64),
        "w": torch.randn(4, 72, *(3, 2, 2)[:dims], dtype=torch.float64),
    }
    agrees(lambda p: spread(conv(p["x"], p["w"], **options)), params, k, RankOne)


def test_an_empty_batch():
    params = {"x": torch.randn(0, 4, 5, 5), "w": torch.randn(8, 4, 3, 3)}
    pushed = push_forward(lambda p: F.conv2d(p["x"], p["w"]).sum(), params, {"w": torch.randn(3, 8, 4, 3, 3)})
    assert pushed.slopes.tolist() == [0, 0, 0]


def test_rank_one_kernels_stay_structured(agrees):
    params = conv_params(2, 2, torch.float64)
    v = {"w": RankOne(torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 2, 3, 3, dtype=torch.float64))}
    trace = push_forward(lambda p: spread(F.conv2d(params["x"], p["w"], groups=2)), {"w": params["w"]}, v).trace
    assert trace.densified == 0


@KINDS
def test_bfloat16_autocast(kind):
    params = conv_params(2, 1, torch.float32)
    v = {name: torch.randn(3, *p.shape) for name, p in params.items()}
    if kind is RankOne:
        v["w"] = RankOne(torch.randn(3, 8), torch.randn(3, 4, 3, 3))

    def loss(p):
        with torch.autocast("cpu", torch.bfloat16):
            y = F.conv2d(p["x"], p["w"], p["b"])
        assert y.dtype == torch.bfloat16
        return y.float().square().mean()

    exact = push_forward(lambda p: F.conv2d(p["x"], p["w"], p["b"]).square().mean(), params, v)
    torch.testing.assert_close(push_forward(loss, params, v).slopes, exact.slopes, rtol=0.05, atol=0.1)
