"""The laws that every sampler keeps: replay, dtype, E[v v^T] = I, and the second moment it states."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.tangents import Key, Rademacher, sampler

NAMES = ["rank_one", "rademacher", "gaussian", "sphere", "orthonormal", "coordinate"]
# These draw each parameter from a stream of its own; the others are one draw over all parameters.
LOCAL = ["rank_one", "rademacher", "gaussian"]
SHAPES = {"w": (3, 4), "k": (2, 2, 1, 2), "b": (3,), "s": ()}
N = 12 + 8 + 3 + 1
TOO_FAR = 5.0  # standard errors; the seeds are fixed, so a draw that passes passes always


def params(dtype=torch.float32, device="cpu") -> dict[str, Tensor]:
    return {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in SHAPES.items()}


def flat(tangents) -> Tensor:
    """[K, n] in float64."""
    return torch.cat([data.reshape(len(data), -1).double() for data in tangents.dense().values()], dim=1)


def many(name: str, num_tangents: int, repeats: int) -> Tensor:
    """Independent draws of K tangents, [repeats, K, n]; in one call where tangents are independent anyway."""
    draw = sampler(name)
    if name in ("orthonormal", "coordinate"):
        return torch.stack([flat(draw(params(), num_tangents, Key(3, step))) for step in range(repeats)])
    return flat(draw(params(), num_tangents * repeats, Key(3))).view(repeats, num_tangents, N)


@pytest.fixture(scope="module")
def draws() -> dict[str, Tensor]:
    return {name: many(name, 4, 1500) for name in NAMES}


def z_scores(samples: Tensor, expected: Tensor) -> Tensor:
    error = samples.std(0) / sqrt(len(samples))
    return (samples.mean(0) - expected).abs() / error.clamp_min(1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_covariance_is_the_identity(name, draws) -> None:
    for k in range(4):  # each tangent by itself, so that none leans on the others
        outer = torch.einsum("ti,tj->tij", draws[name][:, k], draws[name][:, k])
        assert z_scores(outer, torch.eye(N, dtype=torch.float64)).max() < TOO_FAR


@pytest.mark.parametrize("name", [name for name in NAMES if name != "coordinate"])  # those must differ
def test_two_tangents_are_uncorrelated(name, draws) -> None:
    cross = torch.einsum("ti,tj->tij", draws[name][:, 0], draws[name][:, 1])
    assert z_scores(cross, torch.zeros(N, N, dtype=torch.float64)).max() < TOO_FAR


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_tangents", [1, 4])
def test_the_estimate_is_unbiased_and_as_noisy_as_stated(name, num_tangents, draws) -> None:
    grad = torch.linspace(-1, 2, N, dtype=torch.float64)
    used = draws[name][:, :num_tangents]
    estimates = torch.einsum("tki,tk->ti", used, used @ grad) / num_tangents
    assert z_scores(estimates, grad).max() < TOO_FAR
    ratio = estimates.square().sum(1) / grad.square().sum()
    stated = torch.tensor(sampler(name).second_moment(N, num_tangents), dtype=torch.float64)
    assert z_scores(ratio, stated) < TOO_FAR
    error = (estimates - grad).square().sum(1) / grad.square().sum()
    assert z_scores(error, stated - 1) < TOO_FAR


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_scale_would_be_seen(name, draws) -> None:
    used = draws[name][:, :1] * 1.1
    grad = torch.linspace(-1, 2, N, dtype=torch.float64)
    estimates = torch.einsum("tki,tk->ti", used, used @ grad)
    along = estimates @ grad / grad.square().sum()
    assert z_scores(along, torch.ones((), dtype=torch.float64)) > 2
    assert z_scores(used.square().sum((1, 2)), torch.tensor(float(N))) > TOO_FAR


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_tangents_are_like_the_parameters_and_replay_bit_for_bit(name, dtype) -> None:
    given = params(dtype)
    drawn, again, other = (sampler(name)(given, 3, Key(1, step)) for step in (4, 4, 5))
    assert list(drawn) == list(given) and drawn.num_tangents == 3
    for key, param in given.items():
        assert (drawn[key].shape, drawn[key].dtype, drawn[key].device) == (param.shape, dtype, param.device)
        assert torch.equal(drawn[key].dense(), again[key].dense())
    assert not torch.equal(flat(drawn), flat(other))
    assert not any(param.any() for param in given.values())


@pytest.mark.parametrize("name", NAMES)
def test_more_tangents_begin_with_the_same_ones(name) -> None:
    few, more = (flat(sampler(name)(params(), count, Key(9))) for count in (2, 5))
    torch.testing.assert_close(more[:2], few, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LOCAL)
def test_a_parameter_keeps_its_tangents_whoever_else_is_there(name) -> None:
    all_of_them = sampler(name)(params(), 3, Key(2, 2))
    mixed = {"extra": torch.zeros(70, 2), "k": params()["k"], "d": torch.zeros(5, dtype=torch.float64)}
    assert torch.equal(sampler(name)(mixed, 3, Key(2, 2))["k"].dense(), all_of_them["k"].dense())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_several_dtypes(name) -> None:
    mixed = {"a": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.float64), "c": torch.zeros(2, dtype=torch.half)}
    drawn = sampler(name)(mixed, 2, Key(4))
    assert [kind.dtype for kind in drawn.values()] == [torch.float32, torch.float64, torch.half]


@pytest.mark.parametrize("name", NAMES)
def test_tangents_take_no_gradient_and_need_none(name) -> None:
    given = {key: param.requires_grad_() for key, param in params().items()}
    assert not any(data.requires_grad for data in sampler(name)(given, 2, Key(0)).dense().values())


BAD = {
    "no parameters": ({}, 1, "found none"),
    "no tangents": ({"w": torch.ones(2, 2)}, 0, "num_tangents=0"),
    "integers": ({"w": torch.ones(2, 2, dtype=torch.int8)}, 1, "torch.int8 at `w`"),
    "complex numbers": ({"w": torch.ones(2, dtype=torch.cfloat)}, 1, "torch.complex64 at `w`"),
    "two devices": ({"v": torch.ones(2), "w": torch.ones(2, device="meta")}, 1, "meta beside cpu at `w`"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(name, case) -> None:
    given, num_tangents, message = BAD[case]
    with pytest.raises(InputError, match=message):
        sampler(name)(given, num_tangents, Key(0))


@pytest.mark.parametrize("name", ["orthonormal", "coordinate"])
def test_more_tangents_than_entries_are_refused(name) -> None:
    with pytest.raises(InputError, match=rf"num_tangents={N + 1}, n={N}"):
        sampler(name)(params(), N + 1, Key(0))


def test_samplers_compare_print_and_hash() -> None:
    assert Rademacher() == sampler("rademacher") and hash(Rademacher()) == hash(Rademacher())
    assert repr(sampler("rank_one")) == "RankOneRademacher()"


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gpu_draws_what_the_cpu_draws(name, dtype) -> None:
    here, there = (sampler(name)(params(dtype, device), 4, Key(2**62 + 3, 17)) for device in ("cpu", "cuda"))
    for key in here:
        assert there[key].device.type == "cuda"
        got, expected = there[key].dense().cpu(), here[key].dense()
        if name in ("rank_one", "rademacher", "coordinate"):
            assert torch.equal(got, expected)
        else:
            torch.testing.assert_close(got, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-5)
