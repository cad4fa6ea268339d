"""Oracles against dual norms, brute force and their factored twins; points inside and out."""

from __future__ import annotations

from math import inf, prod

import pytest
import torch
from torch.linalg import matrix_norm, vector_norm

import forwardgrad as fg
from forwardgrad.errors import InputError
from forwardgrad.optim import gap
from forwardgrad.optim.constraint import dense

# By name: the set, and its support function at -g in closed form, so that the oracle must reach <g, s> = -support.
SETS = {
    "L1": (fg.L1Ball(2.5), lambda g: 2.5 * vector_norm(g, inf)),
    "L2": (fg.L2Ball(0.7), lambda g: 0.7 * vector_norm(g)),
    "Linf": (fg.LinfBall(0.3), lambda g: 0.3 * vector_norm(g, 1)),
    "Lp 1.5": (fg.LpBall(1.5, 2.0), lambda g: 2.0 * vector_norm(g, 3)),
    "Lp 4": (fg.LpBall(4, 2.0), lambda g: 2.0 * vector_norm(g, 4 / 3)),
    "simplex": (fg.Simplex(3.0), lambda g: -3.0 * g.min()),
    "box": (fg.Box(-0.5, 2.0), lambda g: (-torch.minimum(-0.5 * g, 2.0 * g)).sum()),
    "nuclear": (fg.NuclearBall(1.5, 5000, 1e-15), lambda g: 1.5 * matrix_norm(g.reshape(g.shape[0], -1), 2)),
}
EACH = pytest.mark.parametrize(("within", "support"), SETS.values(), ids=SETS)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factored(shape=(6, 9), rank=2, seed=0, dtype=torch.float64):
    m, n = shape[0], prod(shape[1:])
    left, right = normal(m, rank, seed=seed).to(dtype), normal(n, rank, seed=seed + 1).to(dtype)
    return fg.FactoredGradient(left, right, normal(rank, seed=seed + 2), shape)


@EACH
@pytest.mark.parametrize("shape", [(7,), (5, 8), (8, 3), (4, 3, 2, 2), (1,)])
def test_a_vertex_is_inside_and_reaches_the_support_function(within, support, shape):
    for seed in range(3):
        g = normal(*shape, seed=seed)
        s = within.lmo(g)
        assert s.shape == g.shape and s.dtype == g.dtype
        assert within.excess(dense(s)) <= 1e-12
        torch.testing.assert_close((g * dense(s)).sum(), -support(g), rtol=1e-9, atol=0)


@EACH
def test_no_point_of_the_set_is_better(within, support):
    g = normal(4, 5)
    least = (g * dense(within.lmo(g))).sum()
    for seed in range(100):
        x = within.enter(3 * normal(4, 5, seed=seed))
        assert within.excess(x) <= 1e-12
        assert (g * x).sum() >= least - 1e-12
        assert gap(g, x, within) >= -1e-12


@EACH
def test_a_factored_gradient_gives_the_vertex_of_the_dense_one(within, support):
    g = factored()
    s = dense(within.lmo(g))
    torch.testing.assert_close(
        (g.densify() * s).sum(), -support(g.densify()), rtol=1e-6, atol=0
    )  # its weights: float32
    assert within.excess(s) <= 1e-6


@pytest.mark.parametrize("within", [fg.L2Ball(2.0), fg.NuclearBall(2.0)], ids=repr)
def test_these_read_the_factors_and_answer_in_factors(within):
    g = factored()
    s = within.lmo(g)
    x = torch.zeros(6, 9, dtype=torch.float64).lerp_(s, 0.5)
    assert g.densified == s.densified == 0
    torch.testing.assert_close(x, 0.5 * s.densify())


def test_vertices_of_one_entry_and_of_rank_one_take_no_room():
    g = normal(40, 50)
    for within in (fg.L1Ball(), fg.Simplex(), fg.NuclearBall()):
        assert within.lmo(g).factors.size == 90


@EACH
@pytest.mark.parametrize("fill", [0.0, 1.0, -1.0])
def test_zeros_and_ties_have_an_answer_inside(within, support, fill):
    g = torch.full((3, 4), fill, dtype=torch.float64)
    s = dense(within.lmo(g))
    assert within.excess(s) <= 1e-12
    torch.testing.assert_close((g * s).sum(), -support(g), rtol=1e-9, atol=1e-12)


@EACH
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_oracle_sees_directions_and_not_lengths(within, support, scale):
    g = normal(6, 5).float()
    near, far = dense(within.lmo(g)), dense(within.lmo(g * scale))
    assert near.dtype == torch.float32
    torch.testing.assert_close(far, near, rtol=1e-3, atol=1e-3)


@EACH
def test_single_numbers_and_half_precision(within, support):
    if isinstance(within, fg.NuclearBall):
        with pytest.raises(InputError, match="NuclearBall needs a matrix"):
            within.lmo(torch.tensor(1.0))
    else:
        assert within.excess(dense(within.lmo(torch.tensor(2.0)))) <= 1e-6
    s = within.lmo(normal(5, 6).bfloat16())
    assert s.dtype == torch.bfloat16 and within.excess(dense(s)) <= 0.02


def test_the_pair_of_singular_vectors_is_that_of_the_svd():
    # A start along the largest row would stay in the block of the second singular value.
    g = torch.zeros(5, 5, dtype=torch.float64)
    g[:4, :4], g[4, 4] = 0.5, 1.5
    u, _, vh = torch.linalg.svd(g)
    torch.testing.assert_close(dense(fg.NuclearBall(1.0, 200, 1e-15).lmo(g)), -torch.outer(u[:, 0], vh[0]))


@EACH
def test_a_point_enters_once(within, support):
    x = within.enter(10 + normal(3, 4))
    assert within.excess(10 + normal(3, 4)) > 0.1
    torch.testing.assert_close(within.enter(x), x, rtol=1e-12, atol=1e-12)


def test_the_simplex_takes_in_what_has_no_positive_entry():
    assert fg.Simplex(2.0).enter(-torch.ones(4)).tolist() == [0.5] * 4


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: fg.L1Ball(0.0), "L1Ball needs a finite radius > 0; found 0.0"),
        (lambda: fg.L2Ball(inf), "L2Ball needs a finite radius"),
        (lambda: fg.LinfBall(-1), "LinfBall needs a finite radius"),
        (lambda: fg.LinfBall(True), "LinfBall needs a finite radius"),
        (lambda: fg.LpBall(1), "use L1Ball or LinfBall at the ends"),
        (lambda: fg.LpBall(inf), "LpBall needs an exponent 1 < p < inf"),
        (lambda: fg.Simplex(-2.0), "Simplex needs a finite radius"),
        (lambda: fg.Box(1.0, 1.0), "Box needs finite bounds low < high; found 1.0 and 1.0"),
        (lambda: fg.Box(-inf, 1.0), "Box needs finite bounds"),
        (lambda: fg.NuclearBall(1.0, 0), "NuclearBall needs at least one iteration"),
    ],
)
def test_sizes_that_cannot_be_are_sentences(make, found):
    with pytest.raises(InputError, match=found):
        make()
