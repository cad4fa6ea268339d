"""Solvers that are counted: residuals against a naive sweep, counts with slopes, and what is missing said."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from forwardgrad.blackbox import iterations_to, ksp_history, sor_history
from forwardgrad.errors import InputError, MissingExtraError

RNG = np.random.default_rng(0)


def poisson(n):
    sparse = pytest.importorskip("scipy.sparse")
    return sparse.diags([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1]).tocsr()


def naive(matrix, b, x, omega, sweeps):
    """SOR, entry by entry."""
    A, x, seen = matrix.toarray(), x.copy(), []
    for _ in range(sweeps + 1):
        seen.append(np.linalg.norm(b - A @ x) / np.linalg.norm(b))
        for i in range(len(b)):
            x[i] += omega * (b[i] - A[i] @ x) / A[i, i]
    return np.array(seen)


@pytest.mark.parametrize("omega", [1.0, 1.6])
def test_sweeps_are_those_of_sor(omega):
    pytest.importorskip("pyamg")
    A, b, x = poisson(12), RNG.normal(size=12), RNG.normal(size=12)
    before = x.copy()
    history = sor_history(A, b, x, omega, rtol=1e-5)
    np.testing.assert_allclose(history, naive(A, b, x, omega, len(history) - 1), rtol=1e-8)
    assert history[-1] <= 1e-5 < history[-2] and np.array_equal(x, before)
    assert len(sor_history(A, b, x, omega, rtol=1e-5, most=3)) == 4


def test_the_same_sweeps_in_petsc():
    pytest.importorskip("petsc4py")
    pytest.importorskip("pyamg")
    A, b, x = poisson(12), RNG.normal(size=12), RNG.normal(size=12)
    options = {"ksp_type": "richardson", "pc_type": "sor", "pc_sor_forward": True, "pc_sor_omega": 1.5}
    found, wanted = ksp_history(A, b, x, options), sor_history(A, b, x, 1.5)
    np.testing.assert_allclose(found, wanted, rtol=1e-8)


def test_conjugate_gradients_of_petsc_take_as_many_iterations_as_scipys():
    pytest.importorskip("petsc4py")
    linalg = pytest.importorskip("scipy.sparse.linalg")
    A, b, seen = poisson(40), RNG.normal(size=40), []
    linalg.cg(A, b, rtol=1e-6, atol=0, callback=seen.append)
    history = ksp_history(A, b, np.zeros(40), {"ksp_type": "cg", "pc_type": "none"})
    assert abs(len(history) - 1 - len(seen)) <= 1
    assert history[0] == pytest.approx(1)
    with pytest.raises(InputError, match="a KSP needs a right-hand side; found zeros"):
        ksp_history(A, 0 * b, b, {})


def test_iterations_of_a_constant_rate_are_a_logarithm():
    rate, rtol = 0.8, 1e-4
    history = rate ** np.arange(60)
    expected = np.log(rtol) / np.log(rate)
    assert iterations_to(history, rtol) == pytest.approx(expected)
    assert iterations_to(history[:30], rtol) == pytest.approx(expected, rel=1e-9)  # continued at its rate
    assert iterations_to(np.array([1e-5, 1e-6]), rtol) == 0
    assert iterations_to(np.linspace(1, 2, 11), rtol) == 20  # diverging: twice its length


def test_iterations_change_smoothly_where_the_count_jumps():
    """The whole count of a faster solver falls in steps; this falls with every change."""
    rates = np.linspace(0.70, 0.72, 41)
    smooth = [iterations_to(rate ** np.arange(100), 1e-6) for rate in rates]
    whole = [int(np.argmax(rate ** np.arange(100) <= 1e-6)) for rate in rates]
    assert np.diff(smooth).min() > 0 and len(set(whole)) < 6
    assert np.abs(np.array(whole) - smooth).max() <= 1


@pytest.mark.parametrize(("history", "rtol"), [([1.0], 0.1), ([1.0, -1.0], 0.1), ([1.0, 0.5], 0.0), ([1.0, 0.5], 2.0)])
def test_bad_histories_are_refused(history, rtol):
    with pytest.raises(InputError, match=r"rtol needs to lie in|need a history of residuals"):
        iterations_to(np.array(history), rtol)


def test_a_relaxation_that_diverges_is_refused_and_a_missing_package_named(monkeypatch):
    A, b = poisson(4), np.ones(4)
    if "pyamg" in sys.modules or pytest.importorskip("pyamg"):
        with pytest.raises(InputError, match=r"omega in \(0, 2\).*found 2.0"):
            sor_history(A, b, b, 2.0)
    for name in ("pyamg.relaxation.relaxation", "petsc4py"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"SOR needs pyamg; found no such package; .*forwardgrad\[solvers\]"):
        sor_history(A, b, b, 1.0)
    with pytest.raises(MissingExtraError, match=r"a KSP needs petsc4py; .*forwardgrad\[petsc\]"):
        ksp_history(A, b, b, {})


def test_the_twin_of_the_claim_is_the_solver_of_the_claim():
    """So backprop through it is the true gradient of what pyamg does."""
    pytest.importorskip("pyamg")
    from forwardgrad.claims.poisson import Family

    family = Family(7, 1e-6)
    task = family.draw(3, torch.Generator().manual_seed(0))
    theta = torch.randn(3, 17, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 3
    torch.testing.assert_close(family.twin(theta, task), family.solve(theta, task), rtol=1e-8, atol=1e-8)
    leaf = theta.clone().requires_grad_()
    (whole,) = torch.autograd.grad(family.twin(leaf, task).sum(), leaf)
    (recomputed,) = torch.autograd.grad(family.twin(leaf, task, segment=5).sum(), leaf)
    torch.testing.assert_close(recomputed, whole)
    step = torch.zeros_like(theta)
    step[:, 0] = 1e-5
    slope = (family.solve(theta + step, task) - family.solve(theta - step, task)) / 2e-5
    torch.testing.assert_close(slope, whole[:, 0], rtol=1e-4, atol=1e-4)
