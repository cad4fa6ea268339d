"""Every kind of tangent does to its form what the dense twin does to its entries."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from forwardgrad.gradient import FactoredGradient
from forwardgrad.tangents import Coordinate, Dense, Kind, RankOne, Zero

SHAPES = [(3, 4), (4, 3), (2, 3, 2), (3, 2, 2, 2), (1, 5)]


def build(name: str, shape: tuple[int, ...], count: int, dtype=torch.float64) -> Kind:
    draw = torch.Generator().manual_seed(count + prod(shape))
    normal = lambda *size: torch.randn(*size, generator=draw, dtype=torch.float64).to(dtype)
    if name == "dense":
        return Dense(normal(count, *shape))
    if name == "rank_one":
        return RankOne(normal(count, shape[0]), normal(count, *shape[1:]))
    if name == "coordinate":
        index = torch.randint(prod(shape), (count,), generator=draw)
        return Coordinate(index, normal(count), torch.Size(shape), dtype)
    return Zero(torch.Size(shape), count, dtype, torch.device("cpu"))


NAMES = ["dense", "rank_one", "coordinate", "zero"]


@st.composite
def kinds(draw) -> Kind:
    return build(draw(st.sampled_from(NAMES)), draw(st.sampled_from(SHAPES)), draw(st.integers(1, 5)))


@st.composite
def changed(draw) -> tuple[Kind, Dense]:
    """A kind and its dense twin after the same few operations."""
    kind = draw(kinds())
    twin = Dense(kind.dense().clone())
    for operation in draw(st.lists(st.sampled_from(["chunk", "narrow", "mask", "transpose"]), max_size=4)):
        if operation == "transpose":
            arguments = ()
            if len(kind.shape) != 2:
                continue
        elif operation == "mask":
            row = draw(st.integers(0, kind.shape[0] - 1))
            arguments = (draw(st.sampled_from([row, torch.tensor([row, 0])])),)
        elif operation == "chunk":
            start = draw(st.integers(0, kind.num_tangents - 1))
            arguments = (start, draw(st.integers(start + 1, kind.num_tangents + 1)))
        else:
            dim = draw(st.integers(-len(kind.shape), len(kind.shape) - 1))
            start = draw(st.integers(0, kind.shape[dim] - 1))
            arguments = (dim, start, draw(st.integers(1, kind.shape[dim] - start)))
        kind, twin = (getattr(each, operation)(*arguments) for each in (kind, twin))
    return kind, twin


def plain(data: Tensor, weights: Tensor) -> Tensor:
    return torch.tensordot(weights, data, 1)


@given(changed())
def test_it_is_its_dense_twin(pair) -> None:
    kind, twin = pair
    assert isinstance(kind, Kind)
    assert (kind.shape, kind.dtype, kind.device) == (twin.shape, twin.dtype, twin.device)
    assert kind.num_tangents == twin.num_tangents
    close = lambda got, expected: torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    close(kind.dense(), twin.data)
    rows = twin.data.flatten(1)
    close(kind.gram(), rows @ rows.T)
    weights = torch.linspace(-1, 2, kind.num_tangents, dtype=torch.float64)
    total = kind.weighted_sum(weights)
    close(total.densify() if isinstance(total, FactoredGradient) else total, plain(twin.data, weights))
    grad = torch.randn(kind.shape, dtype=torch.float64)
    close(kind.dot(grad), rows @ grad.flatten())


def test_dense_operations_are_what_they_say() -> None:
    dense = build("dense", (3, 4), 5)
    data = dense.data
    assert torch.equal(dense.chunk(1, 3).data, data[1:3])
    assert torch.equal(dense.transpose().data, data.mT)
    assert torch.equal(dense.narrow(-1, 1, 2).data, data[:, :, 1:3])
    masked = dense.mask(1).data
    assert not masked[:, 1].any() and torch.equal(masked[:, 0], data[:, 0])


@given(changed())
def test_structure_survives(pair) -> None:
    kind, _ = pair
    assert type(kind.chunk(0, 1)) is type(kind.narrow(0, 0, 1)) is type(kind.mask(0)) is type(kind)
    assert type(kind.to(torch.float32)) is type(kind)
    if len(kind.shape) == 2:
        assert type(kind.transpose()) is type(kind)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(name, dtype) -> None:
    kind = build(name, (3, 4), 2, dtype)
    assert kind.dense().dtype == kind.dtype == kind.weighted_sum(torch.ones(2)).dtype == dtype
    assert kind.gram().dtype == torch.float64
    assert kind.dot(torch.ones(3, 4, dtype=dtype)).dtype == torch.float32
    cast = kind.to(dtype=torch.float64, device="cpu")
    assert cast.dtype == cast.dense().dtype == torch.float64
    assert kind.to().dtype == dtype


def test_a_rank_one_sum_is_factored_and_meets_factored_gradients() -> None:
    kind = build("rank_one", (3, 2, 2, 2), 4)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    total = kind.weighted_sum(weights)
    assert isinstance(total, FactoredGradient) and total.shape == kind.shape and total.left.shape == (3, 4)
    torch.testing.assert_close(kind.dot(total), kind.gram() @ weights.double())
    assert total.densified == 0
    torch.testing.assert_close(kind.dot(total.densify()), kind.dot(total))


def test_a_coordinate_elsewhere_is_nothing_here() -> None:
    kind = Coordinate(torch.tensor([0, 5]), torch.tensor([0.0, 2.0]), torch.Size((2, 3)), torch.float32)
    assert kind.dense()[0].count_nonzero() == 0 and kind.dense()[1, 1, 2] == 2
    empty = Coordinate(torch.tensor([0]), torch.tensor([0.0]), torch.Size((0, 3)), torch.float32)
    assert empty.dense().shape == (1, 0, 3)
    assert empty.weighted_sum(torch.ones(1)).shape == (0, 3)
    assert empty.dot(torch.ones(0, 3)).tolist() == [0.0]
