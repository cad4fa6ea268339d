"""The number of iterations as something that has a slope."""

from __future__ import annotations

from math import log

import numpy as np

from forwardgrad.errors import InputError


def iterations_to(history: np.ndarray, rtol: float) -> float:
    r"""When a residual crosses the tolerance, read off between iterations on a logarithmic scale.

    .. math:: N = k + \frac{\log (r_k / \epsilon)}{\log (r_k / r_{k+1})}, \qquad r_k > \epsilon \ge r_{k+1}

    Continuous in the residuals and, but for kinks, differentiable, where the count itself is a staircase. A history
    that ends above the tolerance is continued at its mean rate, a diverging one is given twice its length.

    Args:
        history: [k], residuals relative to the right-hand side, that of the initial guess first.
        rtol: the tolerance, epsilon.

    Raises:
        InputError: a history of fewer than two residuals, or with a negative one; a tolerance outside (0, 1).

    Note:
        Arisaka and Li sum sigmoids of the residuals above the tolerance; where those are small, so are its slopes.
    """
    if not 0 < rtol < 1:
        raise InputError("rtol needs to lie in (0, 1)", repr(rtol), "use about 1e-6")
    r = np.maximum(np.asarray(history, dtype=np.float64), 1e-300)
    if r.ndim != 1 or len(r) < 2 or not bool((np.asarray(history) >= 0).all()):
        raise InputError("iterations need a history of residuals", f"{np.asarray(history)!r:.60}", "record two or more")
    below = np.flatnonzero(r <= rtol)
    if len(below) == 0:
        pace = log(r[0] / r[-1]) / (len(r) - 1)
        left = log(r[-1] / rtol) / pace if pace > 0 else np.inf
        return len(r) - 1 + min(left, len(r) - 1.0)
    k = int(below[0]) - 1
    return 0.0 if k < 0 else k + log(r[k] / rtol) / log(r[k] / r[k + 1])
