"""Coordinates: all different, each as likely as any, exact where all are drawn."""

from __future__ import annotations

import torch
from scipy import stats

from forwardgrad.tangents import Coordinate, CoordinateDraw, Key
from forwardgrad.tangents.coordinate import _shuffled

PARAMS = {"w": torch.zeros(3, 4), "b": torch.zeros(3), "empty": torch.zeros(0)}
N = 15


def test_each_tangent_is_one_coordinate_of_one_parameter() -> None:
    drawn = CoordinateDraw()(PARAMS, 9, Key(3))
    assert all(isinstance(kind, Coordinate) for kind in drawn.values())
    rows = torch.cat([data.flatten(1) for data in drawn.dense().values()], dim=1)
    assert (rows.count_nonzero(1) == 1).all() and (rows.count_nonzero(0) <= 1).all()
    torch.testing.assert_close(rows.sum(1), torch.full((9,), N**0.5))


def test_all_coordinates_give_the_gradient_itself() -> None:
    drawn = CoordinateDraw()(PARAMS, N, Key(1))
    grads = {name: torch.randn(param.shape) for name, param in PARAMS.items()}
    torch.testing.assert_close(drawn.weighted_sum(drawn.dot(grads) / N), grads)


def test_every_coordinate_is_as_likely_at_every_place() -> None:
    drawn = torch.tensor([_shuffled(5, 3, Key(1, step)) for step in range(2000)])
    for place in range(3):
        assert stats.chisquare(drawn[:, place].bincount(minlength=5).numpy()).pvalue > 0.001
    assert all(len(set(row)) == 3 for row in drawn.tolist())


def test_a_full_shuffle_is_a_permutation() -> None:
    assert sorted(_shuffled(200, 200, Key(4))) == list(range(200))
    assert max(_shuffled(2**60, 5, Key(4))) > 2**55
