"""Look-ups, single and in bags, against reverse mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.errors import UnsupportedError
from forwardgrad.forward_ad import push_forward
from forwardgrad.tangents.kinds import Coordinate, Dense, RankOne

KINDS = pytest.mark.parametrize("kind", [Dense, RankOne])
TANGENTS = pytest.mark.parametrize("k", [1, 3])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def spread(y: Tensor) -> Tensor:
    return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum()


def weight(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {"w": torch.randn(7, 4, dtype=dtype)}


TOKENS = torch.tensor([[1, 2, 0, 6, 2], [0, 0, 5, 5, 5]])


@DTYPES
@KINDS
@TANGENTS
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_idx": 0},
        {"padding_idx": -2},
        {"scale_grad_by_freq": True},
        {"padding_idx": 5, "scale_grad_by_freq": True},
    ],
    ids=str,
)
def test_embedding(agrees, options, k, kind, dtype):
    agrees(lambda p: spread(F.embedding(TOKENS, p["w"], **options).square()), weight(dtype), k, kind)


@KINDS
def test_one_token(agrees, kind):
    agrees(lambda p: spread(F.embedding(torch.tensor(3), p["w"], 1) * p["w"][3]), weight(), 3, kind)
    agrees(lambda p: spread(F.embedding(torch.tensor(1), p["w"], 1) + p["w"]), weight(), 3, kind)


@KINDS
def test_torch_embedding(agrees, kind):
    agrees(lambda p: spread(torch.embedding(p["w"], TOKENS, 2)), weight(), 3, kind)


@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}, {"scale_grad_by_freq": True}], ids=str)
def test_coordinates_are_never_written_out(options):
    w = weight()["w"]
    v = Coordinate(torch.tensor([2, 8, 22, 27]), torch.tensor([1.0, 2.0, -1.0, 0.0], dtype=w.dtype), w.shape, w.dtype)
    pushed = push_forward(lambda p: spread(F.embedding(TOKENS, p["w"], **options)), {"w": w}, {"w": v})
    dense = push_forward(lambda p: spread(F.embedding(TOKENS, p["w"], **options)), {"w": w}, {"w": v.dense()})
    torch.testing.assert_close(pushed.slopes, dense.slopes)
    assert pushed.trace.densified == 0


def test_rank_one_is_never_written_out():
    v = RankOne(torch.randn(3, 7), torch.randn(3, 4))
    for lookup in (lambda w: F.embedding(TOKENS, w, 0), lambda w: F.embedding_bag(TOKENS, w)):
        assert push_forward(lambda p: lookup(p["w"]).sum(), weight(torch.float32), {"w": v}).trace.densified == 0  # noqa: B023


def test_a_tied_head_moves_the_padding_row_that_the_look_up_holds_still(agrees):
    agrees(lambda p: spread(F.linear(F.embedding(TOKENS, p["w"], 0), p["w"])), weight(), 3, RankOne)


@pytest.mark.parametrize("lookup", [F.embedding, F.embedding_bag])
def test_max_norm_is_refused_before_it_writes(lookup):
    params = weight()
    before = params["w"].clone()
    with pytest.raises(UnsupportedError, match="max_norm"):
        push_forward(lambda p: lookup(TOKENS, p["w"], max_norm=0.1).sum(), params, {"w": torch.randn(1, 7, 4)})
    assert torch.equal(params["w"], before)


BAGS = {
    "rows": (TOKENS, None, {}),
    "offsets": (TOKENS.reshape(-1), torch.tensor([0, 3, 3, 6]), {}),
    "last offset": (TOKENS.reshape(-1), torch.tensor([0, 3, 3, 10]), {"include_last_offset": True}),
    "padding": (TOKENS, None, {"padding_idx": 0}),
}


@DTYPES
@KINDS
@TANGENTS
@pytest.mark.parametrize("bags", BAGS)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag(agrees, mode, bags, k, kind, dtype):
    index, offsets, options = BAGS[bags]
    agrees(lambda p: spread(F.embedding_bag(index, p["w"], offsets, mode=mode, **options)), weight(dtype), k, kind)


@KINDS
@TANGENTS
def test_embedding_bag_scaled_by_frequency(k, kind):
    """As documented. Stock's CPU kernel divides by other numbers (found in torch 2.13), so it is no judge here."""
    v = {"w": RankOne(torch.randn(k, 7), torch.randn(k, 4)) if kind is RankOne else torch.randn(k, 7, 4)}
    bag = push_forward(
        lambda p: spread(F.embedding_bag(TOKENS, p["w"], mode="sum", scale_grad_by_freq=True)), weight(torch.float32), v
    )
    rows = push_forward(
        lambda p: spread(F.embedding(TOKENS, p["w"], scale_grad_by_freq=True).sum(1)), weight(torch.float32), v
    )
    torch.testing.assert_close(bag.slopes, rows.slopes)


@KINDS
@TANGENTS
@pytest.mark.parametrize("moving", ["w", "s", "ws"])
def test_per_sample_weights(agrees, moving, k, kind):
    held = {**weight(), "s": torch.randn(2, 5, dtype=torch.float64)}

    def loss(p):
        p = {**held, **p}
        return spread(F.embedding_bag(TOKENS, p["w"], mode="sum", per_sample_weights=p["s"]))

    agrees(loss, {n: held[n] for n in moving}, k, kind)
