"""Outer products of signs for matrices and kernels, signs for the rest."""

from __future__ import annotations

import torch

from forwardgrad.gradient import FactoredGradient
from forwardgrad.tangents import Dense, Key, RankOne, RankOneRademacher


def test_matrices_and_kernels_get_outer_products() -> None:
    shapes = {"matrix": (4, 6), "kernel": (3, 2, 5, 5), "vector": (7,), "scalar": (), "empty": (0, 3)}
    drawn = RankOneRademacher()({name: torch.zeros(shape) for name, shape in shapes.items()}, 3, Key(5))
    kinds = {name: type(kind) for name, kind in drawn.items()}
    assert kinds == {"matrix": RankOne, "kernel": RankOne, "vector": Dense, "scalar": Dense, "empty": RankOne}
    for name, shape in shapes.items():
        assert drawn[name].dense().shape == (3, *shape)
        assert (drawn[name].dense().abs() == 1).all()
    assert drawn["kernel"].a.shape == (3, 3) and drawn["kernel"].b.shape == (3, 2, 5, 5)


def test_left_and_right_are_drawn_apart() -> None:
    kind = RankOneRademacher()({"w": torch.zeros(64, 64)}, 4, Key(5))["w"]
    assert not any(torch.equal(a, b) for a in kind.a for b in kind.b)


def test_a_draw_takes_the_memory_of_its_factors() -> None:
    drawn = RankOneRademacher()({f"w{i}": torch.zeros(1000, 1000) for i in range(3)}, 2, Key(1))
    storages = {factor.untyped_storage() for kind in drawn.values() for factor in (kind.a, kind.b)}
    (only,) = {storage.data_ptr() for storage in storages}
    assert only and next(iter(storages)).nbytes() == 3 * 2 * 2048 * 4


def test_its_estimate_is_factored() -> None:
    drawn = RankOneRademacher()({"w": torch.zeros(20, 30), "b": torch.zeros(20)}, 2, Key(1))
    total = drawn.weighted_sum(torch.ones(2))
    assert isinstance(total["w"], FactoredGradient) and type(total["b"]) is torch.Tensor
