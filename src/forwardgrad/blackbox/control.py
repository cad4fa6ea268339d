"""A control variate that knows: the estimate is built around the gradient of a learned surrogate."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from forwardgrad.blackbox.surrogate import Surrogate
from forwardgrad.combine import Control
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.methods.forward import admitted, at_full_precision, check_options, reaching
from forwardgrad.objective import Differentiable, Objective, Params, finite, require
from forwardgrad.passport import Passport
from forwardgrad.slopes import Jvp, Slope
from forwardgrad.slopes import slope as find_slope
from forwardgrad.tangents import Key, Sampler, Tangents, sampler


class SurrogateControl(nn.Module):
    r"""Forward gradient around the gradient h of a surrogate, which then learns from the slopes.

    .. math::
        h = \nabla \hat f_\psi(\theta), \qquad
        \hat g = h + \tfrac1K \sum_k (\nabla f \cdot v_k - h \cdot v_k)\, v_k, \qquad
        \psi \leftarrow \psi - \rho\, \nabla_\psi \sum_k (\nabla f \cdot v_k - \nabla \hat f_\psi \cdot v_k)^2

    Unbiased whatever the surrogate is, since it has not seen v yet; the better it fits, the less noise.

    Knows:     values (two losses per tangent), and what its surrogate learned from past slopes
    Cost:      2K forward passes, and the surrogate's training; 1 + 2K with slope="jvp"
    Memory:    one forward pass, the surrogate with its tape, and its memory of parameters and directions
    Bias:      0, and that of the differences: O(eps^2), and rounding of the loss over eps
    Variance:  (n - 1)/K |grad f - h|^2 / |grad f|^2 for signs, n parameters

    Args:
        surrogate: its net takes all parameters, flattened in their order, as one row [1, n].
        num_tangents: K >= 1.
        tangents: as for `ForwardGradient`.
        slope: as for `ForwardGradient`; differences of values by default, as black boxes need them.

    Raises:
        InputError: K < 1, an unknown name.
        RungError: slope="jvp" with an objective that cannot push tangents.

    References:
        | Accelerating Legacy Numerical Solvers by Non-intrusive Gradient-based Meta-solving (Arisaka and Li, 2024),
          arXiv 2405.02952

    Note:
        One row is one problem here. For a batch of problems, each with a slope of its own, see `BlackBox`.
    """

    passport: ClassVar[Passport] = Passport(
        knows="values (two losses per tangent), and what its surrogate learned from past slopes",
        cost='2K forward passes, and the surrogate\'s training; 1 + 2K with slope="jvp"',
        memory="one forward pass, the surrogate with its tape, and its memory of parameters and directions",
        bias="0, and that of the differences: O(eps^2), and rounding of the loss over eps",
        variance="(n - 1)/K |grad f - h|^2 / |grad f|^2 for signs",
        paper="Arisaka and Li 2024, arXiv 2405.02952",
        rung=0,
    )

    def __init__(
        self,
        surrogate: Surrogate,
        num_tangents: int = 1,
        tangents: str | Sampler = "rademacher",
        slope: str | Slope = "central",
    ) -> None:
        super().__init__()
        check_options(num_tangents, 1.0, ())
        sampler(tangents), find_slope(slope)
        self.surrogate, self.num_tangents, self.tangents, self.slope = surrogate, num_tangents, tangents, slope

    def forward(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        with torch.no_grad():
            measure = find_slope(self.slope)
            if isinstance(measure, Jvp):
                objective = require(self, objective, Differentiable)
            key = key if key is not None else Key.draw()

            with at_full_precision(params):
                v = admitted(objective, sampler(self.tangents)(params, self.num_tangents, key))
            loss, c, aux, reached = measure(objective, params, v)
            finite(loss, c)
            v = reaching(v, reached)
            with at_full_precision(params):
                grad = Control(self.guess(params))(c, v, 1.0)
                # Only now: a surrogate that had learned from c already would make the estimate biased.
                theta = _row(params)
                self.surrogate.learn(theta.expand(len(c), -1), _rows(v, params), c.reshape(-1, 1))
            return Estimate(loss, grad, c, key, aux)

    def guess(self, params: Params) -> dict[str, Tensor]:
        """h at `params`: name -> tensor of the parameter's shape and dtype."""
        theta = _row(params)
        h = self.surrogate.gradient(theta, theta.new_ones(1, 1))[0]
        parts = h.split([p.numel() for p in params.values()])
        return {name: part.view(p.shape).to(p.dtype) for (name, p), part in zip(params.items(), parts, strict=True)}

    def extra_repr(self) -> str:
        return f"num_tangents={self.num_tangents}, tangents={self.tangents!r}, slope={self.slope!r}"


def _row(params: Params) -> Tensor:
    return torch.cat([p.detach().flatten() for p in params.values()])[None]


def _rows(v: Tangents, params: Params) -> Tensor:
    still = lambda p: p.new_zeros(v.num_tangents, p.numel())
    return torch.cat([v[n].dense().flatten(1) if n in v else still(p) for n, p in params.items()], 1)
