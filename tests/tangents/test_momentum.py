"""Momentum-mixed directions: the bias and the noise that their documentation states."""

from __future__ import annotations

import pytest
import torch

from forwardgrad.errors import InputError
from forwardgrad.gradient import FactoredGradient
from forwardgrad.tangents import Key, MomentumMixed, sampler

PARAMS = {"w": torch.zeros(3, 4, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)}
N = 15


def flat(parts) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in parts.values()])


def momentum() -> dict[str, torch.Tensor]:
    return {name: torch.randn(param.shape, dtype=torch.float64) for name, param in PARAMS.items()}


def many(draw, count: int) -> torch.Tensor:
    return torch.cat([data.flatten(1) for data in draw(PARAMS, count, Key(5)).dense().values()], dim=1)


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("base", ["rank_one", "gaussian"])
def test_the_covariance_and_so_the_bias_is_as_stated(mix, base) -> None:
    towards = momentum()
    m = flat(towards)
    stated = (1 - mix) * torch.eye(N) + mix * N * torch.outer(m, m) / m.square().sum()
    drawn = many(MomentumMixed(towards, mix, sampler(base)), 6000)
    outer = torch.einsum("ti,tj->tij", drawn, drawn)
    assert ((outer.mean(0) - stated).abs() / (outer.std(0) / 6000**0.5).clamp_min(1e-9)).max() < 5
    grad = torch.randn(N, dtype=torch.float64)
    estimates = drawn * (drawn @ grad).unsqueeze(1)
    error = (estimates.mean(0) - stated @ grad).abs() / (estimates.std(0) / 6000**0.5).clamp_min(1e-9)
    assert error.max() < 5


@pytest.mark.parametrize("num_tangents", [1, 4])
@pytest.mark.parametrize("mix", [0.2, 0.7])
def test_the_second_moment_over_gradients_of_any_direction(mix, num_tangents) -> None:
    draw = MomentumMixed(momentum(), mix, sampler("rademacher"))
    drawn = many(draw, 4000 * num_tangents).view(4000, num_tangents, N)
    grads = torch.nn.functional.normalize(torch.randn(4000, N, dtype=torch.float64), dim=1)
    slopes = torch.einsum("tki,ti->tk", drawn, grads) / num_tangents
    squares = torch.einsum("tki,tk->ti", drawn, slopes).square().sum(1)
    stated = draw.second_moment(N, num_tangents)
    assert abs(float(squares.mean()) - stated) < 5 * float(squares.std()) / 4000**0.5


def test_no_momentum_yet_is_the_base() -> None:
    base = sampler("rank_one")
    zero = {name: torch.zeros_like(param) for name, param in PARAMS.items()}
    for mapping in ({}, zero):
        drawn = MomentumMixed(mapping, 0.5, base)(PARAMS, 2, Key(1))
        assert torch.equal(drawn["w"].dense(), base(PARAMS, 2, Key(1))["w"].dense())


def test_a_factored_buffer_is_read_and_left_as_it_is() -> None:
    buffer = FactoredGradient(torch.ones(3, 1), torch.ones(4, 1), torch.ones(1), (3, 4)).double()
    MomentumMixed({"w": buffer}, 0.5, sampler("rank_one"))(PARAMS, 2, Key(1))
    assert buffer.is_factored


def test_bad_momentum_is_refused() -> None:
    with pytest.raises(InputError, match=r"mix=1\.5"):
        MomentumMixed({}, 1.5, sampler("rank_one"))
    for bad in ({"nobody": torch.ones(2)}, {"w": torch.ones(4, 3)}):
        with pytest.raises(InputError, match=r"at `(nobody|w)`"):
            MomentumMixed(bad, 0.5, sampler("rank_one"))(PARAMS, 1, Key(0))
