"""Attention against reverse mode: masks, groups, dropout, precision, blocks, and what it allocates."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from forwardgrad.forward_ad import push_forward
from forwardgrad.forward_ad.peak import PeakBytes, leaves
from forwardgrad.forward_ad.rules import attention

sdpa = F.scaled_dot_product_attention
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
TANGENTS = pytest.mark.parametrize("k", [1, 3])


@pytest.fixture(params=[2 << 20, 4 << 10, 1], ids=["one block", "some blocks", "many blocks"])
def block(request, monkeypatch):
    monkeypatch.setitem(attention.BLOCK_BYTES, "cpu", request.param)
    if request.param == 1:
        monkeypatch.setattr(attention, "CAUSAL_ROWS", 3)


def spread(y: Tensor) -> Tensor:
    """A scalar that sees every entry differently."""
    return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum()


def qkv(dtype: torch.dtype, lead=(2, 3), length=37, keys=37, width=8, out=8, key_lead=None) -> dict[str, Tensor]:
    key_lead = lead if key_lead is None else key_lead
    return {
        "q": torch.randn(*lead, length, width, dtype=dtype),
        "k": torch.randn(*key_lead, keys, width, dtype=dtype),
        "v": torch.randn(*key_lead, keys, out, dtype=dtype),
    }


def drawn(x: dict[str, Tensor], k: int = 2) -> dict[str, Tensor]:
    return {name: torch.randn(k, *t.shape, dtype=t.dtype) for name, t in x.items()}


CASES = {
    "plain": ({}, {}),
    "causal": ({}, {"is_causal": True}),
    "cross": ({"length": 5, "keys": 41}, {}),
    "causal, more keys": ({"length": 20}, {"is_causal": True}),
    "causal, more queries": ({"keys": 20}, {"is_causal": True}),
    "scale": ({}, {"scale": 0.3}),
    "three dimensions": ({"lead": (4,)}, {"is_causal": True}),
    "two dimensions": ({"lead": ()}, {}),
    "five dimensions": ({"lead": (2, 2, 3)}, {"is_causal": True}),
    "another width out": ({"out": 6}, {}),
    "broadcast keys": ({"key_lead": (1, 3)}, {}),
    "groups": ({"lead": (2, 6), "key_lead": (2, 2)}, {"enable_gqa": True, "is_causal": True}),
    "one group": ({"lead": (2, 3), "key_lead": (2, 1)}, {"enable_gqa": True}),
}


@DTYPES
@TANGENTS
@pytest.mark.parametrize("case", CASES)
def test_shapes(agrees, block, case, k, dtype):
    sizes, options = CASES[case]
    agrees(lambda p: spread(sdpa(p["q"], p["k"], p["v"], **options)), qkv(dtype, **sizes), k)


@pytest.mark.parametrize("moving", [c for n in (1, 2) for c in combinations("qkv", n)], ids="".join)
def test_some_of_them_move(agrees, moving):
    x = qkv(torch.float64)
    params = {name: x[name] for name in moving}
    agrees(lambda p: spread(sdpa(**{long: {**x, **p}[long[0]] for long in ("query", "key", "value")})), params)


def masks(dtype: torch.dtype) -> dict[str, Tensor]:
    keep = torch.rand(2, 1, 37, 37) > 0.3
    keep[..., 0] = True
    return {
        "bool": keep,
        "rows": keep[:, :, :1],
        "matrix": torch.randn(37, 37, dtype=dtype),
        "by head": torch.randn(1, 3, 37, 37, dtype=dtype),
        "minus infinity": torch.zeros(2, 1, 37, 37, dtype=dtype).masked_fill(~keep, -torch.inf),
        "smallest": torch.zeros(2, 1, 1, 37, dtype=dtype).masked_fill(~keep[:, :, :1], torch.finfo(dtype).min),
    }


@DTYPES
@pytest.mark.parametrize("mask", masks(torch.float32))
def test_masks(agrees, block, mask, dtype):
    m = masks(dtype)[mask]
    agrees(lambda p: spread(sdpa(p["q"], p["k"], p["v"], attn_mask=m)), qkv(dtype))


@pytest.mark.parametrize("mask", ["bool", "by head"])
def test_masks_with_groups(agrees, block, mask):
    m = masks(torch.float64)[mask].repeat_interleave(2, 1)
    x = qkv(torch.float64, lead=(2, 6), key_lead=(2, 3))
    m = m if m.shape[1] == 6 else m[:, :1]
    agrees(lambda p: spread(sdpa(p["q"], p["k"], p["v"], attn_mask=m, enable_gqa=True)), x)


@DTYPES
@TANGENTS
@pytest.mark.parametrize("shape", [(2, 3, 37, 37), (1, 3, 37, 37), (37, 37), (2, 1, 1, 37)], ids=str)
def test_a_mask_that_moves(agrees, block, shape, k, dtype):
    x = {**qkv(dtype), "m": torch.randn(shape, dtype=dtype)}
    agrees(lambda p: spread(sdpa(p["q"], p["k"], p["v"], attn_mask=p["m"])), x, k)
    agrees(lambda p: spread(sdpa(x["q"], x["k"], x["v"], attn_mask=p["m"])), {"m": x["m"]}, k)


@pytest.mark.parametrize("soft", [False, True])
def test_rows_that_see_nothing_are_zero(block, soft):
    x = qkv(torch.float64)
    mask = torch.rand(2, 1, 37, 37) > 0.3
    mask[0, :, 3:9] = False
    m = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -torch.inf) if soft else mask
    pushed = push_forward(lambda p: sdpa(p["q"], p["k"], p["v"], attn_mask=m), x, drawn(x))
    assert not pushed.value[0, :, 3:9].any()
    assert not pushed.slopes[:, 0, :, 3:9].any()
    assert pushed.slopes.isfinite().all()
    torch.testing.assert_close(
        pushed.value, sdpa(**dict(zip(("query", "key", "value"), x.values(), strict=True)), attn_mask=m)
    )


def test_what_is_not_a_number_stays_so():
    x = qkv(torch.float32)
    x["q"][0, 0, 5] = torch.nan
    mask = torch.ones(37, 37, dtype=torch.bool).tril()
    pushed = push_forward(
        lambda q: sdpa(q, x["k"], x["v"], attn_mask=mask), (x["q"],), (torch.randn(1, *x["q"].shape),)
    )
    assert pushed.value[0, 0, 5].isnan().all()
    assert pushed.value[0, 0, 6].isfinite().all()


@DTYPES
@TANGENTS
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"enable_gqa": True}], ids=str)
def test_dropout_draws_what_stock_draws(agrees, block, options, k, dtype):
    x = qkv(dtype, lead=(2, 6), key_lead=(2, 2) if options.get("enable_gqa") else (2, 6))
    agrees(lambda p: spread(sdpa(p["q"], p["k"], p["v"], dropout_p=0.3, **options)), x, k)


def test_all_dropped():
    x = qkv(torch.float32)
    pushed = push_forward(
        lambda p: sdpa(p["q"], p["k"], p["v"], dropout_p=1.0), x, {"q": torch.randn(2, *x["q"].shape)}
    )
    assert not pushed.value.any()
    assert not pushed.slopes.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_sums_in_float32(dtype):
    x = {name: t.to(dtype) for name, t in qkv(torch.float32, length=200, keys=200, width=32).items()}
    v = drawn(x)

    def fn(p):
        return sdpa(p["q"] * 4, p["k"], p["v"], is_causal=True)

    low = push_forward(fn, x, v)
    high = push_forward(fn, {n: t.double() for n, t in x.items()}, {n: t.double() for n, t in v.items()})
    assert low.value.dtype == low.slopes.dtype == dtype
    for a, b in ((low.value, high.value), (low.slopes, high.slopes)):
        assert (a.double() - b).norm() <= torch.finfo(dtype).eps * b.norm()


def test_autocast_is_asked_once():
    x, m = qkv(torch.float32, length=200, keys=200, width=32), torch.randn(200, 200)
    v = drawn(x)

    def fn(p):
        return sdpa(p["q"], p["k"], p["v"], attn_mask=m)

    with torch.autocast("cpu", torch.bfloat16):
        low = push_forward(fn, x, v)
        assert low.value.dtype == low.slopes.dtype == fn(x).dtype == torch.bfloat16
        double = push_forward(fn, {n: t.double() for n, t in x.items()}, {n: t.double() for n, t in v.items()})
    assert double.slopes.dtype == torch.float64
    for a, b in ((low.value, double.value), (low.slopes, double.slopes)):
        assert (a.double() - b).norm() <= torch.finfo(torch.bfloat16).eps * b.norm()


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that any operation returns."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in leaves(out):
            if x.untyped_storage().nbytes() >= x.numel() * x.element_size():  # an expanded view is no memory
                self.entries = max(self.entries, x.numel())
        return out


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("k", [1, 4])
def test_no_score_matrix_per_tangent(k, causal, dropout):
    x = tuple(torch.randn(2, 4, 512, 16) for _ in range(3))
    v = tuple(torch.randn(k, 2, 4, 512, 16) for _ in range(3))
    with Largest() as mode, PeakBytes() as memory:
        push_forward(lambda q, k, v: sdpa(q, k, v, dropout_p=dropout, is_causal=causal), x, v)
    scores, results, block = 2 * 4 * 512 * 512, (1 + k) * x[0].numel(), attention.BLOCK_BYTES["cpu"]
    one_byte_mask = scores if dropout else 0
    assert mode.entries <= max(results, block // 4, one_byte_mask) < 4 * scores
    assert memory.peak <= 4 * results + 5 * block + one_byte_mask


def test_heads_are_merged_without_a_copy():
    x = qkv(torch.float32)
    pushed = push_forward(lambda p: sdpa(p["q"], p["k"], p["v"]), x, drawn(x))
    assert pushed.value.transpose(1, 2).is_contiguous()
    assert pushed.slopes.transpose(2, 3).is_contiguous()


def test_what_stock_refuses_is_refused():
    x = qkv(torch.float32)
    v = drawn({"q": x["q"]})
    with pytest.raises(RuntimeError):
        push_forward(lambda p: sdpa(p["q"], p["k"], p["v"], attn_mask=torch.ones(37, 37), is_causal=True), x, v)
    with pytest.raises(RuntimeError):
        push_forward(lambda p: sdpa(p["q"], p["k"][..., :5], p["v"]), x, v)
