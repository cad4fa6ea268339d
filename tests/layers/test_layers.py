"""Couplings invert, and a conditioned start keeps lengths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forwardgrad.layers import Additive, Affine, Coupling, conditioned_


@pytest.mark.parametrize("mix", [Additive(), Affine(), Affine(0.1)])
def test_a_coupling_is_inverted(mix):
    made = 6 if isinstance(mix, Affine) else 3
    torch.manual_seed(0)
    block = Coupling(nn.Linear(3, made), nn.Sequential(nn.Linear(3, made), nn.ReLU()), mix).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(block.inverse(block(x)), x)
    assert not torch.allclose(block(x), x)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (6,)),
        (nn.Conv2d(3, 12, 2, 2), (3, 4, 4)),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (4, 4, 4)),
    ],
)
def test_a_conditioned_start_has_a_jacobian_near_an_orthogonal_one(layer, shape):
    conditioned_(layer, 0.05, torch.Generator().manual_seed(0))
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    jacobian = torch.autograd.functional.jacobian(layer, x).reshape(layer(x).numel(), -1)
    values = torch.linalg.svdvals(jacobian)
    assert 0.75 < float(values.min()) <= float(values.max()) < 1.25
    assert not layer.bias.any()


def test_the_draw_is_the_generators():
    a, b = (conditioned_(nn.Linear(4, 4), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a.weight, b.weight)
