"""An unrolled loop whose hypergradient has a closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from forwardgrad.bilevel import Unroll
from forwardgrad.forward_ad import inner_gradient
from forwardgrad.objective import Params

LOOP = 12
"""N, the number of hyperparameters of `loop`."""


def loop(steps: int = 60) -> tuple[Unroll, Params]:
    r"""Descent on :math:`\tfrac12 w^\top H w - \varphi^\top w`, judged so that :math:`h(\varphi) = \tfrac12 |\varphi -
    \varphi^*|^2`, in float64.

    The eigenvalues of H lie in [1/2, 3/2] and the rate is 1, so that a step halves the distance to
    :math:`w = H^{-1} \varphi`, and with it what is left out by whoever looks at the last steps only. All entries of the
    hypergradient are positive at the start.

    Args:
        steps: T; after 60 the loop has converged to the last bit.

    Returns:
        The loop, and where it is looked at.
    """
    index = torch.arange(LOOP, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cos(index[:, None] * (index + 0.5) + 1)).Q
    hessian = basis @ torch.diag(torch.linspace(0.5, 1.5, LOOP, dtype=torch.float64)) @ basis.T
    best = torch.sin(index)

    def inner(w: Tensor, phi: Tensor) -> Tensor:
        return w @ (hessian @ w) / 2 - phi @ w

    def step(w: Tensor, hyper: Params, batch: None) -> Tensor:
        return w - inner_gradient(inner)(w, hyper["phi"])

    def outer(w: Tensor, hyper: Params) -> Tensor:
        return (hessian @ w - best).square().sum() / 2

    return Unroll(step, torch.zeros_like(best), outer, steps), {"phi": best + 0.2 + 0.1 * (index % 3)}
