"""ForwardGradient: tangents x slope x combine, and what each choice is worth."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.combine import Mean, Mmse, Project
from forwardgrad.methods import SPSA, ForwardGradient
from forwardgrad.slopes import Central, Jvp
from forwardgrad.tangents import Dense as DenseKind
from forwardgrad.tangents import Gaussian, RankOneRademacher, Sparse
from forwardgrad.testing import BOWL, bowl, tower
from forwardgrad.testing.draws import flat


def at(method, problem=None, key=fg.Key(1)):
    objective = (problem or bowl()).objective
    estimate = method(objective, objective.params, key=key)
    exact = fg.Backprop()(objective, objective.params).grad
    return flat(estimate.grad, objective.params), flat(exact, objective.params), estimate


@pytest.mark.parametrize(
    ("name", "object_"),
    [
        ({"tangents": "gaussian"}, {"tangents": Gaussian()}),
        ({"combine": "project"}, {"combine": Project()}),
        ({"combine": "mmse"}, {"combine": Mmse(RankOneRademacher())}),
        ({"combine": "mean"}, {"combine": Mean()}),
        ({"slope": "central"}, {"slope": Central()}),
        ({"chunk_size": 3}, {"slope": Jvp(3)}),
    ],
    ids=lambda options: str(options),
)
def test_names_are_shorthands_for_objects_and_nothing_more(name, object_):
    seen = [at(ForwardGradient(8, **options))[0] for options in (name, object_)]
    assert torch.equal(*seen)


def test_scale_is_a_factor():
    plain, _, _ = at(ForwardGradient(8))
    torch.testing.assert_close(at(ForwardGradient(8, scale=0.25))[0], plain / 4)
    torch.testing.assert_close(at(ForwardGradient(8, scale="mmse"))[0], plain * 8 / (BOWL + 7))
    torch.testing.assert_close(at(ForwardGradient(8, scale="mmse"))[0], at(ForwardGradient(8, combine="mmse"))[0])
    assert torch.equal(
        at(ForwardGradient(8, combine="project", scale="mmse"))[0], at(ForwardGradient(8, combine="project"))[0]
    )


@pytest.mark.parametrize("k", [1, 16])
def test_the_estimate_is_longer_than_the_gradient_by_the_root_of_n_over_k(k):
    """Why a learning rate found with backprop diverges."""
    lengths = torch.stack([at(ForwardGradient(k, "sphere"), key=fg.Key(0, i))[0].square().sum() for i in range(100)])
    gradient = at(ForwardGradient(1))[1].square().sum()
    assert math.sqrt(lengths.mean() / gradient) == pytest.approx(math.sqrt(1 + (BOWL - 1) / k), rel=0.15)


@pytest.mark.parametrize("k", [1, 8, 32])
def test_mmse_is_nearer_to_the_gradient_than_unbiased_and_points_the_same_way(k):
    for i in range(5):
        unbiased, g, _ = at(ForwardGradient(k), key=fg.Key(i))
        shrunk, _, _ = at(ForwardGradient(k, scale="mmse"), key=fg.Key(i))
        assert F.cosine_similarity(unbiased, shrunk, dim=0) == pytest.approx(1)
        assert (shrunk - g).norm() < (unbiased - g).norm() or k > 8


def test_projection_points_where_the_mean_points_when_k_is_small():
    """FROG is the mean times about k/(n+k+1): same direction for k << n, exact for k = n."""
    problem = tower(2, 24)
    mean, g, _ = at(ForwardGradient(4, "gaussian"), problem)
    project, _, _ = at(ForwardGradient(4, "gaussian", combine="project"), problem)
    n = len(g)
    assert F.cosine_similarity(mean, project, dim=0) > 0.99
    assert project.norm() / mean.norm() == pytest.approx(4 / (n + 5), rel=0.1)


def test_more_tangents_are_better():
    cosines = [
        sum(
            float(F.cosine_similarity(*at(ForwardGradient(k, "gaussian"), key=fg.Key(i))[:2], dim=0)) for i in range(10)
        )
        / 10
        for k in (1, 4, 16, 64)
    ]
    assert cosines == sorted(cosines) and cosines[-1] > 0.6
    for k, cosine in zip((4, 16, 64), cosines[1:], strict=True):
        assert cosine == pytest.approx(math.sqrt(k / (BOWL + k + 1)), rel=0.2)


def test_rank_one_and_its_dense_twin_are_the_same_estimate():
    """The same tangents written out densely: structure is a matter of cost alone."""

    @dataclasses.dataclass(frozen=True)
    class Written:
        def __call__(self, params, num_tangents, key):
            v = RankOneRademacher()(params, num_tangents, key)
            return fg.Tangents({name: DenseKind(x) for name, x in v.dense().items()})

        def second_moment(self, n, num_tangents):
            return RankOneRademacher().second_moment(n, num_tangents)

    torch.testing.assert_close(at(ForwardGradient(8))[0], at(ForwardGradient(8, Written()))[0])


def test_gradients_of_matrices_are_factored_and_nothing_is_densified():
    _, _, estimate = at(ForwardGradient(8), tower(2, 24))
    matrices = [g for g in estimate.grad.values() if g.ndim == 2]
    assert len(matrices) == 2 and all(isinstance(g, fg.FactoredGradient) for g in matrices)
    assert all(g.is_factored and g.left.shape == (24, 8) for g in matrices)


def test_a_sparse_sampler_trains_what_its_mask_keeps():
    problem = bowl()
    mask = {"weight": torch.zeros(6, 8, dtype=torch.bool)}
    mask["weight"][1, 2:5] = True
    grad = at(ForwardGradient(4, Sparse(mask, Gaussian())), problem)[2].grad
    assert (grad["weight"] != 0).equal(mask["weight"]) and "bias" not in grad


def test_slopes_along_rank_one_tangents_have_heavier_tails_where_the_gradient_is_of_rank_one():
    """The price of structure: E c^2 is the same, E c^4 / (E c^2)^2 rises from 3 to 9. The bowl's is nearly such."""
    kurtosis = {}
    for tangents in ("rank_one", "rademacher"):
        c = at(ForwardGradient(20_000, tangents))[2].slopes
        kurtosis[tangents] = float(c.pow(4).mean() / c.square().mean() ** 2)
    assert kurtosis["rademacher"] == pytest.approx(3, rel=0.1) and 5 < kurtosis["rank_one"] < 9


def test_differences_in_place_of_a_push_make_spsa():
    spsa, _, _ = at(SPSA(1e-4, 8))
    assert torch.equal(spsa, at(ForwardGradient(8, slope=Central(1e-4)))[0])
    torch.testing.assert_close(spsa, at(ForwardGradient(8))[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("combine", "rate"), [("mean", 7.5e-3), ("project", 0.486)])
def test_the_sphere_in_1024_dimensions(combine, rate):
    """1000 steps of 16 tangents from -1, as in arXiv 2410.17764, whose code reaches 2.3e-4 and 2.0e-4."""
    sphere = lambda params: params["x"].square().sum()
    x = -torch.ones(1024)
    for step in range(1000):
        method = ForwardGradient(16, "gaussian", combine=combine)
        x = x - rate * method(sphere, {"x": x}, key=fg.Key(0, step)).grad["x"]
    assert x.square().sum() < 3e-4


def test_it_is_a_value():
    assert ForwardGradient(4) == ForwardGradient(4) != ForwardGradient(5)
    assert hash(ForwardGradient(4, Gaussian())) == hash(ForwardGradient(4, Gaussian()))
    assert dataclasses.replace(ForwardGradient(4), num_tangents=8) == ForwardGradient(8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ForwardGradient(4).num_tangents = 3
