"""One sphere through all parameters."""

from __future__ import annotations

import pytest
import torch

from forwardgrad.tangents import Gaussian, Key, Sphere

PARAMS = {"w": torch.zeros(4, 5, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)}


def test_every_tangent_has_length_root_n() -> None:
    drawn = Sphere()(PARAMS, 6, Key(1))
    torch.testing.assert_close(drawn.gram().diagonal(), torch.full((6,), 23.0, dtype=torch.float64))


def test_directions_are_those_of_the_gaussian() -> None:
    sphere, gaussian = (
        torch.cat([d.flatten(1) for d in draw(PARAMS, 6, Key(1)).dense().values()], 1)
        for draw in (Sphere(), Gaussian())
    )
    torch.testing.assert_close(torch.cosine_similarity(sphere, gaussian), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("grad", [torch.eye(23)[0], torch.ones(23)])
def test_the_second_moment_is_the_same_for_every_gradient(grad) -> None:
    many = torch.cat([d.flatten(1) for d in Sphere()(PARAMS, 4000, Key(8)).dense().values()], 1)
    ratio = (many @ grad.double()).square() * 23 / grad.square().sum()
    assert abs(float(ratio.mean()) - Sphere().second_moment(23, 1)) < 5 * float(ratio.std()) / 4000**0.5
