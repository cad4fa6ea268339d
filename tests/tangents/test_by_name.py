"""Short names stand for sampler objects and for nothing else."""

from __future__ import annotations

import pytest

from forwardgrad.errors import InputError
from forwardgrad.tangents import CoordinateDraw, Gaussian, Orthonormal, Rademacher, RankOneRademacher, Sphere, sampler

NAMES = {
    "rank_one": RankOneRademacher,
    "rademacher": Rademacher,
    "gaussian": Gaussian,
    "sphere": Sphere,
    "orthonormal": Orthonormal,
    "coordinate": CoordinateDraw,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_its_object(name) -> None:
    assert sampler(name) == NAMES[name]()


def test_an_object_is_itself() -> None:
    given = Sphere()
    assert sampler(given) is given


@pytest.mark.parametrize(
    ("bad", "message"),
    [("gausian", "write `gaussian`"), ("zzz", "choose one of"), (3, "found 3"), (Sphere, "sampler object")],
)
def test_anything_else_is_refused(bad, message) -> None:
    with pytest.raises(InputError, match=message):
        sampler(bad)
