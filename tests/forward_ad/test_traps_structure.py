"""Structured tangents stay structured where mathematics allows, and what is written out is counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.errors import UnsupportedError
from forwardgrad.forward_ad import push_forward
from forwardgrad.tangents.kinds import Coordinate, RankOne, Zero

D = torch.float64
TANGENTS = pytest.mark.parametrize("k", [1, 3])


def spread(y: Tensor) -> Tensor:
    """A scalar that sees every entry differently."""
    return (y * torch.arange(y.numel(), dtype=D).view(y.shape).cos()).sum()


def rank_one(*shape: int, k: int = 3) -> RankOne:
    return RankOne(torch.randn(k, shape[0], dtype=D), torch.randn(k, *shape[1:], dtype=D))


X = torch.linspace(-1, 1, 12, dtype=D).view(3, 4)
STRUCTURED = {
    "F.linear": lambda w: F.linear(X, w),
    "x @ w.t()": lambda w: X @ w.t(),
    "x @ w.T": lambda w: X @ w.T,
    "w @ x": lambda w: w @ X.t(),
    "w.mT": lambda w: torch.matmul(X, w.mT),
    "torch.mm": lambda w: torch.mm(w, X.t()),
    "addmm": lambda w: torch.addmm(torch.ones(4, dtype=D), X, w),
    "chunk": lambda w: F.linear(X, w.chunk(2)[1]) + sum(F.linear(X, part) for part in w.split([2, 2])),
    "chunk of columns": lambda w: sum(F.linear(X[:, :2], part) for part in w.chunk(2, dim=1)),
    "narrow": lambda w: F.linear(X, w.narrow(0, 1, 2)),
    "slice": lambda w: F.linear(X, w[1:3]) + F.linear(X[:, :2], w[:2, 2:]),
    "cast": lambda w: F.linear(X.float(), w.float()).double(),
    "cast there and back": lambda w: F.linear(X, w.to(torch.float32).to(D)),
    "transposed twice": lambda w: F.linear(X, w.t().contiguous().t()) if False else F.linear(X, w.t().t()),
    "embedding": lambda w: F.embedding(torch.tensor([0, 3, 3]), w),
    "conv": lambda w: F.conv1d(X.t()[None], w[..., :1]) if w.ndim == 3 else F.linear(X, w),
}


@TANGENTS
@pytest.mark.parametrize("name", STRUCTURED)
def test_rank_one_stays_structured(name, k):
    f, w, v = STRUCTURED[name], torch.randn(4, 4, dtype=D), rank_one(4, 4, k=k)
    pushed = push_forward(lambda p: spread(f(p["w"]).double()), {"w": w}, {"w": v})
    dense = push_forward(lambda p: spread(f(p["w"]).double()), {"w": w}, {"w": v.dense()})
    tolerance = 1e-5 if "cast" in name else 1e-12
    torch.testing.assert_close(pushed.slopes, dense.slopes, rtol=tolerance, atol=tolerance)
    assert pushed.trace.densified == 0


@pytest.mark.parametrize("name", ["view", "w * 2", "three dimensions", "bmm"])
def test_densifications_are_counted(agrees, name):
    f = {
        "view": lambda w: F.linear(X, w.view(4, 4)),
        "w * 2": lambda w: F.linear(X, w * 2),
        "three dimensions": lambda w: torch.matmul(w.view(2, 2, 4), X.t()),
        "bmm": lambda w: torch.bmm(w.unflatten(0, (2, 2)), X.t().expand(2, 4, 3)),
    }[name]
    trace = agrees(lambda p: spread(f(p["w"])), {"w": torch.randn(4, 4, dtype=D)}, 3, RankOne)
    assert trace.densified == 1


@TANGENTS
@pytest.mark.parametrize(
    "f",
    [lambda w: w @ X.t(), lambda w: X @ w.mT, lambda w: torch.bmm(w, X.t().expand(2, 4, 3))],
    ids=["left", "right", "bmm"],
)
def test_a_parameter_of_three_dimensions(agrees, f, k):
    agrees(lambda p: spread(f(p["w"])), {"w": torch.randn(2, 3, 4, dtype=D)}, k, RankOne)


@pytest.mark.parametrize(
    "f", [lambda w: F.linear(X, w), lambda w: X @ w, lambda w: F.embedding(torch.tensor([2, 0]), w), lambda w: w * w]
)
def test_coordinates(f):
    w = torch.randn(4, 4, dtype=D)
    v = Coordinate(torch.tensor([0, 7, 9]), torch.tensor([1.0, 2.0, 0.0], dtype=D), w.shape, D)
    pushed = push_forward(lambda p: spread(f(p["w"])), {"w": w}, {"w": v})
    dense = push_forward(lambda p: spread(f(p["w"])), {"w": w}, {"w": v.dense()})
    torch.testing.assert_close(pushed.slopes, dense.slopes)


def test_coordinates_of_kernels_and_vectors():
    params = {"w": torch.randn(4, 2, 3, dtype=D), "b": torch.randn(4, dtype=D)}
    v = {
        "w": Coordinate(torch.tensor([5, 23]), torch.ones(2, dtype=D), params["w"].shape, D),
        "b": Coordinate(torch.tensor([1, 0]), torch.ones(2, dtype=D), params["b"].shape, D),
    }
    x = torch.randn(2, 2, 6, dtype=D)
    pushed = push_forward(lambda p: spread(F.conv1d(x, p["w"], p["b"])), params, v)
    dense = push_forward(lambda p: spread(F.conv1d(x, p["w"], p["b"])), params, {n: t.dense() for n, t in v.items()})
    torch.testing.assert_close(pushed.slopes, dense.slopes)


def test_zero_tangents_cost_nothing():
    params = {"w": torch.randn(4, 4), "b": torch.randn(4)}
    v = {"w": Zero(params["w"].shape, 2, torch.float32, torch.device("cpu")), "b": torch.randn(2, 4)}
    pushed = push_forward(lambda p: F.linear(X.float(), p["w"], p["b"]).sum(), params, v)
    assert pushed.trace.densified == 0
    assert pushed.reached == {"b"}


def test_a_structured_tangent_is_never_written_apart_from_its_views():
    """A cast weight is no parameter, so it may be written to; its structured tangent is no view of anything."""

    def half_then_write(p):
        low = p["w"].float()
        rows = low.chunk(2)
        low.mul_(2)
        return rows[0].sum()

    with pytest.raises(UnsupportedError, match="had to be copied"):
        push_forward(half_then_write, {"w": torch.randn(4, 4, dtype=D)}, {"w": rank_one(4, 4)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_linear(dtype):
    params = {"w": torch.randn(8, 4), "b": torch.randn(8)}
    v = {"w": RankOne(torch.randn(3, 8), torch.randn(3, 4)), "b": torch.randn(3, 8)}
    x = torch.randn(16, 4)

    def loss(p, enabled):
        with torch.autocast("cpu", dtype, enabled=enabled):
            y = F.gelu(F.linear(x, p["w"], p["b"]))
        assert y.dtype == (dtype if enabled else torch.float32)
        return y.float().square().mean()

    pushed, exact = (push_forward(lambda p: loss(p, on), params, v).slopes for on in (True, False))  # noqa: B023
    torch.testing.assert_close(pushed, exact, rtol=0.05, atol=0.05)
