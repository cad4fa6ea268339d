"""Right inverses of small matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from forwardgrad.errors import IllConditionedError


def right_inverse(a: Tensor) -> Tensor:
    r"""The pseudo-inverse of matrices of full row rank.

    .. math:: A^H = QR, \qquad A^+ = Q R^{-H}, \qquad A A^+ = I

    Args:
        a: [.., m, n], m <= n, real or complex; computed in float32 at least.

    Returns:
        [.., n, m] in the precision of the computation.

    Raises:
        IllConditionedError: a row that depends on the others, as far as the precision tells.
    """
    a = a if a.dtype in (torch.float64, torch.complex64, torch.complex128) else a.float()
    q, r = torch.linalg.qr(a.mH)
    diagonal = r.diagonal(dim1=-2, dim2=-1).abs()
    least, most = float(diagonal.min()), float(diagonal.max())
    if not least > a.shape[-1] * torch.finfo(a.dtype).eps * most:
        raise IllConditionedError(
            "an inverse Jacobian needs rows that are independent",
            f"a factor of {least:.2g} beside one of {most:.2g}",
            "start from fg.layers.conditioned_(model), or regularise",
        )
    return torch.linalg.solve_triangular(r, q.mH, upper=True).mH
