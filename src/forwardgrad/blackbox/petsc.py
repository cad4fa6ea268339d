"""Krylov solvers and preconditioners of PETSc, with whatever its options database can set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from forwardgrad.errors import InputError, MissingExtraError


def ksp_history(
    matrix: Any,
    right: np.ndarray,
    guess: np.ndarray,
    options: Mapping[str, object],
    rtol: float = 1e-6,
    most: int = 1000,
) -> np.ndarray:
    """Residuals of a KSP until they are at most `rtol`, relative to the right-hand side.

    Args:
        matrix: [n, n], a scipy sparse matrix in CSR.
        right: [n], the right-hand side, not zero.
        guess: [n], where to start; left as it is.
        options: of PETSc, without the dash: ``{"ksp_type": "cg", "pc_type": "sor", "pc_sor_omega": 1.5}``.
        rtol: the tolerance.
        most: iterations at most.

    Returns:
        [k + 1] for k iterations, the true residual norm of the guess first.

    Raises:
        InputError: a right-hand side of zeros, or a breakdown of the method.
        MissingExtraError: petsc4py is not installed.
    """
    try:
        from petsc4py import PETSc
    except ImportError as error:
        cure = "pip install forwardgrad[petsc], or Debian's python3-petsc4py"
        raise MissingExtraError("a KSP needs petsc4py", "no such package", cure) from error
    size = float(np.linalg.norm(right))
    if size == 0:
        raise InputError("a KSP needs a right-hand side", "zeros", "leave that task out")
    seen: list[float] = []
    A = PETSc.Mat().createAIJ(matrix.shape, csr=(matrix.indptr, matrix.indices, matrix.data), comm=PETSc.COMM_SELF)
    b, x = A.createVecLeft(), A.createVecRight()
    b.setArray(right)
    x.setArray(guess)
    ksp, database = PETSc.KSP().create(PETSc.COMM_SELF), PETSc.Options("forwardgrad_")
    ksp.setOptionsPrefix("forwardgrad_")
    try:
        for name, value in options.items():
            database.setValue(name, value)
        ksp.setOperators(A)
        ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
        ksp.setInitialGuessNonzero(True)
        ksp.setTolerances(rtol=rtol, atol=0.0, divtol=1e30, max_it=most)
        # Not PETSc's own history: with a monitor Richardson forgoes the short cut on which it measures no residuals.
        ksp.setMonitor(lambda _ksp, _iteration, residual: seen.append(residual / size))
        ksp.setFromOptions()
        ksp.solve(b, x)
        reason = ksp.getConvergedReason()
    finally:
        for name in options:
            database.delValue(name)
        for held in (ksp, A, b, x):
            held.destroy()
    if reason < 0 and reason != PETSc.KSP.ConvergedReason.DIVERGED_MAX_IT:
        raise InputError("a KSP needs options under which it runs", f"reason {reason}", "change them", path="options")
    return np.array(seen)
