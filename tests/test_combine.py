"""From slopes to a gradient, against naive twins."""

from __future__ import annotations

import pytest
import torch

import forwardgrad as fg
from forwardgrad.combine import Control, Mean, Mmse, Project, combiner
from forwardgrad.errors import InputError
from forwardgrad.tangents import Dense, Gaussian, Orthonormal, Rademacher, RankOneRademacher, Sphere, Tangents

SHAPES = {"a": (4, 5), "b": (4,), "c": (2, 3, 3), "d": ()}
N = 20 + 4 + 18 + 1


def params(dtype=torch.float64):
    return {name: torch.zeros(shape, dtype=dtype) for name, shape in SHAPES.items()}


def gradient(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}


def drawn(k, sampler=None, seed=1):
    return (sampler or RankOneRademacher())(params(), k, fg.Key(seed))


def matrix(v):
    """V, [n, K]."""
    return torch.cat([x.reshape(len(x), -1) for x in v.dense().values()], 1).T


def flat(g):
    return torch.cat([(x + 0).reshape(-1) for x in g.values()])


def nearly_dependent(k, gap):
    """K tangents of which the second is the first, but for `gap`."""
    v = drawn(k, Gaussian()).dense()
    for x in v.values():
        x[1] = x[0] + gap * x[1]
    return Tangents({n: Dense(x) for n, x in v.items()})


@pytest.mark.parametrize("sampler", [RankOneRademacher(), Rademacher(), Gaussian(), Sphere(), Orthonormal()], ids=repr)
def test_mean_written_out(sampler):
    g, v = gradient(), drawn(7, sampler)
    V = matrix(v)
    torch.testing.assert_close(flat(Mean()(v.dot(g), v)), V @ (V.T @ flat(g)) / 7)
    torch.testing.assert_close(flat(Mean()(v.dot(g), v, 0.5)), V @ (V.T @ flat(g)) / 14)


@pytest.mark.parametrize("k", [1, 2, 7, N - 1, N, N + 5, 3 * N])
def test_projection_by_gram_solve_is_least_squares(k):
    """Its twin solves min |V w - g| by a QR of the whole matrix; more tangents than dimensions are no trouble."""
    g, v = gradient(), drawn(k, Gaussian())
    V = matrix(v)
    w = torch.linalg.lstsq(V, flat(g).unsqueeze(1), driver="gelsd").solution
    torch.testing.assert_close(flat(Project()(v.dot(g), v)), (V @ w).squeeze(1), rtol=1e-6, atol=1e-6)


def test_k_equal_to_n_recovers_the_gradient():
    g, v = gradient(), drawn(N, Gaussian())
    assert float((flat(Project()(v.dot(g), v)) - flat(g)).norm() / flat(g).norm()) < 1e-10


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_nearly_dependent_tangents_do_no_harm(gap, noise):
    """The estimate stays a projection of g: never longer, its rest orthogonal, whatever rounding made of the slopes.

    Between tangents 1e-6 apart, slopes that are off by 1e-7 say nothing about the difference: it is given up.
    """
    g, v = gradient(), nearly_dependent(6, gap)
    c = v.dot(g) * (1 + noise * torch.randn(6, dtype=torch.float64))
    seen, target = flat(Project()(c, v)), flat(g)
    assert seen.norm() <= target.norm() * (1 + 1e-3)
    assert abs(seen @ (target - seen)) <= 1e-3 * target @ target
    kept = matrix(v)[:, [0, 2, 3, 4, 5]]
    rest = kept @ torch.linalg.lstsq(kept, target.unsqueeze(1)).solution.squeeze(1)
    if gap < 1e-4:
        torch.testing.assert_close(seen, rest, rtol=1e-3, atol=1e-3)


def test_single_precision_slopes_of_nearly_dependent_tangents():
    v = Tangents({n: k.to(torch.float32) for n, k in nearly_dependent(6, 1e-4).items()})
    g = {n: x.float() for n, x in gradient().items()}
    assert flat(Project()(v.dot(g), v)).norm() <= 1.1 * flat(g).norm()


def test_the_span_is_global_and_not_per_parameter():
    """The projection onto the product of each parameter's own span keeps more than there is; ours does not."""
    g, v = gradient(), drawn(5, Gaussian())
    c = v.dot(g)
    ours = Project()(c, v)
    assert abs(float(flat(ours) @ flat(g) - flat(ours).square().sum())) < 1e-10
    apart = {n: Project()(c, Tangents({n: v[n]}))[n] for n in v}
    assert abs(float(flat(apart) @ flat(g) - flat(apart).square().sum())) > 1
    residual = flat(g) - flat(ours)
    assert float((matrix(v).T @ residual).abs().max()) < 1e-10  # orthogonal to every tangent


def test_projecting_twice_is_projecting_once():
    g, v = gradient(), drawn(5)
    once = {n: x + 0 for n, x in Project()(v.dot(g), v).items()}
    torch.testing.assert_close(flat(Project()(v.dot(once), v)), flat(once))


@pytest.mark.parametrize("sampler", [RankOneRademacher(), Gaussian(), Sphere(), Orthonormal()], ids=repr)
@pytest.mark.parametrize("k", [1, 8])
def test_mmse_is_the_mean_shrunk_by_its_second_moment(sampler, k):
    g, v = gradient(), drawn(k, sampler)
    s = sampler.second_moment(N, k)
    torch.testing.assert_close(flat(Mmse(sampler)(v.dot(g), v)), flat(Mean()(v.dot(g), v)) / s)
    assert Mean().shrinkage(sampler, N, k) == 1 / s and Mmse(sampler).shrinkage(sampler, N, k) == 1


def test_no_other_factor_has_a_smaller_error_than_mmse():
    """Over many draws the mean squared error has its minimum at the shrinkage."""
    g = gradient()
    sampler, k = Rademacher(), 4
    means = [flat(Mean()((v := drawn(k, sampler, seed)).dot(g), v)) for seed in range(400)]
    error = lambda factor: float(torch.stack([(factor * m - flat(g)).square().sum() for m in means]).mean())
    best = Mean().shrinkage(sampler, N, k)
    assert error(best) < min(error(0.7 * best), error(1.4 * best), error(1.0), error(0.0))


def test_control_around_a_guess():
    g, h, v = gradient(), gradient(2), drawn(7)
    V, residual = matrix(v), flat(g) - flat(h)
    torch.testing.assert_close(flat(Control(h)(v.dot(g), v)), flat(h) + V @ (V.T @ residual) / 7)
    exact = Control(g)(v.dot(g), v)
    torch.testing.assert_close(flat(exact), flat(g))  # a perfect guess leaves nothing to estimate
    torch.testing.assert_close(flat(Control({})(v.dot(g), v)), flat(Mean()(v.dot(g), v)))


def test_control_takes_a_guess_of_some_parameters_and_leaves_it_alone():
    g, v = gradient(), drawn(7)
    h = {"a": gradient(2)["a"]}
    kept = h["a"].clone()
    full = {n: h[n] if n in h else torch.zeros_like(x) for n, x in g.items()}
    torch.testing.assert_close(flat(Control(h)(v.dot(g), v)), flat(Control(full)(v.dot(g), v)))
    assert torch.equal(h["a"], kept)
    with pytest.raises(InputError, match="shape of its parameter") as caught:
        Control({"a": torch.zeros(5, 4)})(v.dot(g), v)
    assert caught.value.path == "a"


@pytest.mark.parametrize("combine", [Mean(), Project(), Mmse(RankOneRademacher()), Control({})], ids=repr)
def test_rank_one_tangents_give_factored_gradients_in_the_parameters_dtype(combine):
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        p = params(dtype)
        v = RankOneRademacher()(p, 5, fg.Key(0))
        out = combine(v.dot({n: x.to(dtype) for n, x in gradient().items()}), v, 1.0)
        assert all(out[n].shape == p[n].shape and out[n].dtype == dtype for n in p)
        assert [n for n in p if isinstance(out[n], fg.FactoredGradient)] == ["a", "c"]
        assert all(out[n].densified == 0 for n in ("a", "c"))


def test_shorthands():
    assert combiner("mean", Gaussian()) == Mean() and combiner("project", Gaussian()) == Project()
    assert combiner("mmse", Gaussian()) == Mmse(Gaussian()) and combiner(Mean(), Gaussian()) == Mean()
    with pytest.raises(InputError, match=r"combine= needs a known name .*found `median`"):
        combiner("median", Gaussian())
