"""Successive over-relaxation by pyamg: compiled, in place, and nothing that autograd could see."""

from __future__ import annotations

from typing import Any

import numpy as np

from forwardgrad.errors import InputError, MissingExtraError


def sor_history(
    matrix: Any, right: np.ndarray, guess: np.ndarray, omega: float, rtol: float = 1e-6, most: int = 1000
) -> np.ndarray:
    """Residuals of SOR sweeps until they are at most `rtol`, relative to the right-hand side.

    Args:
        matrix: [n, n], sparse, in CSR; symmetric and positive definite for convergence.
        right: [n], the right-hand side, not zero.
        guess: [n], where to start; left as it is.
        omega: the relaxation, in (0, 2); 1 is Gauss-Seidel.
        rtol: the tolerance.
        most: sweeps at most.

    Returns:
        [k + 1] for k sweeps, the residual of the guess first.

    Raises:
        InputError: an omega outside (0, 2), or a right-hand side of zeros.
        MissingExtraError: pyamg is not installed.
    """
    try:
        from pyamg.relaxation.relaxation import sor
    except ImportError as error:
        raise MissingExtraError("SOR needs pyamg", "no such package", "pip install forwardgrad[solvers]") from error
    size = float(np.linalg.norm(right))
    if not 0 < omega < 2 or size == 0:
        raise InputError("SOR needs omega in (0, 2) and a right-hand side", f"{omega!r} and norm {size:g}", "bound it")
    x = np.array(guess, dtype=np.float64)
    residuals = [float(np.linalg.norm(right - matrix @ x)) / size]
    while residuals[-1] > rtol and len(residuals) <= most:
        sor(matrix, x, right, omega)
        residuals.append(float(np.linalg.norm(right - matrix @ x)) / size)
    return np.array(residuals)
