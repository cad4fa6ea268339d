"""Tangents of a model: the sum over its parameters of what the kinds do."""

from __future__ import annotations

import pytest
import torch

from forwardgrad.errors import InputError
from forwardgrad.gradient import FactoredGradient
from forwardgrad.tangents import Dense, RankOne, Tangents, Zero


def tangents() -> Tangents:
    return Tangents(
        {
            "w": RankOne(torch.randn(3, 4), torch.randn(3, 5)),
            "b": Dense(torch.randn(3, 4)),
            "frozen": Zero(torch.Size((2,)), 3, torch.float32, torch.device("cpu")),
        }
    )


def test_it_is_a_mapping() -> None:
    drawn = tangents()
    assert list(drawn) == ["w", "b", "frozen"] and len(drawn) == 3 and drawn.num_tangents == 3
    assert drawn.numel == 20 + 4 + 2
    assert "RankOne(4, 5)" in repr(drawn) and "num_tangents=3" in repr(drawn)


def test_gram_dot_and_sum_run_over_all_parameters() -> None:
    drawn = tangents()
    rows = torch.cat([data.flatten(1) for data in drawn.dense().values()], dim=1)
    torch.testing.assert_close(drawn.gram(), (rows.double() @ rows.double().T), rtol=1e-5, atol=1e-5)
    weights = torch.tensor([1.0, -2.0, 3.0])
    total = drawn.weighted_sum(weights)
    assert isinstance(total["w"], FactoredGradient)
    flat = torch.cat([(t.densify() if isinstance(t, FactoredGradient) else t).flatten() for t in total.values()])
    torch.testing.assert_close(flat, weights @ rows)
    torch.testing.assert_close(drawn.dot(total), rows @ flat, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drawn.dot({"b": torch.ones(4)}), drawn["b"].dense().sum(1))
    assert drawn.dot({}).tolist() == [0.0, 0.0, 0.0]


def test_chunk_cast_and_mask() -> None:
    drawn = tangents()
    assert drawn.chunk(1, 3).num_tangents == 2
    assert {kind.dtype for kind in drawn.to(torch.float64).values()} == {torch.float64}
    masked = drawn.mask({"w": 2})
    assert not masked["w"].dense()[:, 2].any() and masked["b"] is drawn["b"]
    assert drawn["w"].dense()[:, 2].all(), "the tangents themselves stay as they are"


def test_bad_collections_are_refused() -> None:
    with pytest.raises(InputError, match="at least one parameter"):
        Tangents({})
    with pytest.raises(InputError, match=r"\[1, 2\]"):
        Tangents({"a": Dense(torch.ones(1, 2)), "b": Dense(torch.ones(2, 2))})
    with pytest.raises(InputError, match="at `nobody`"):
        tangents().mask({"nobody": 0})
    with pytest.raises(InputError, match="at `nobody`"):
        tangents().dot({"nobody": torch.ones(1)})
