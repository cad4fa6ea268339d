"""A control variate that remembers: the estimate is built around a guess which follows the gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forwardgrad.combine import Control
from forwardgrad.errors import InputError
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.methods.forward import admitted, at_full_precision, check_options, reaching
from forwardgrad.objective import Differentiable, Objective, Params, finite, require
from forwardgrad.passport import Passport
from forwardgrad.slopes import Slope
from forwardgrad.slopes import slope as find_slope
from forwardgrad.tangents import Key, Sampler, sampler


class ControlVariate(nn.Module):
    r"""Forward gradient around a memory h of the gradient, which learns from every slope.

    .. math::
        r_k = \nabla f \cdot v_k - h \cdot v_k, \qquad
        \hat g = h + \tfrac{s}{K} \sum_k r_k v_k, \qquad
        h \leftarrow h + \tfrac{\rho}{K} \sum_k r_k v_k

    With s = 1 the estimate is unbiased whatever h is, and as h nears the gradient its variance vanishes. With
    s = rho (the default) the estimate is the memory itself: biased towards the past, with far less noise.

    Knows:     tangents (one push of K tangents; no tape), and its own past
    Cost:      1 + K forward passes with rank-one tangents, and one inner product with h per tangent
    Memory:    one forward pass, K times its live activations, and h, as large as the model
    Bias:      0 with scale="unbiased"; with scale="memory" that of an average over about n/K past steps
    Variance:  (n - 1)/K |grad f - h|^2 / |grad f|^2 (unbiased); rho^2 times that per step (memory)

    Args:
        num_tangents: K >= 1.
        tangents: as for `ForwardGradient`.
        slope: as for `ForwardGradient`.
        scale: "memory" (s = rho), "unbiased" (s = 1), or s itself.
        rate: rho; None for the value nearest to the gradient in mean square, 1 / E|mean|^2 = K/(n+K-1) for signs.

    Raises:
        InputError: K < 1, a rate outside (0, 1], an unknown name, a scale that is not positive.
        RungError: an objective that cannot push tangents.

    References:
        | SEGA: Variance Reduction via Gradient Sketching (Hanzely et al., 2018), Algorithm 1, arXiv 1809.03054

    Note:
        SEGA projects onto the sketched coordinates; signs over all parameters take their place here, with the
        mean-square optimal rate in place of the projection.
    """

    passport: ClassVar[Passport] = Passport(
        knows="tangents (one push of K tangents; no tape), and its own past",
        cost="1 + K forward passes with rank-one tangents, and one inner product with h per tangent",
        memory="one forward pass, K times its live activations, and h, as large as the model",
        bias='0 with scale="unbiased"; with scale="memory" that of an average over about n/K past steps',
        variance="(n - 1)/K |grad f - h|^2 / |grad f|^2 (unbiased); rho^2 times that per step (memory)",
        paper="Hanzely, Mishchenko, Richtarik 2018, Algorithm 1, arXiv 1809.03054",
        rung=1,
    )

    def __init__(
        self,
        num_tangents: int = 1,
        tangents: str | Sampler = "rank_one",
        slope: str | Slope = "jvp",
        scale: str | float = "memory",
        rate: float | None = None,
    ) -> None:
        super().__init__()
        check_options(num_tangents, scale, ("memory", "unbiased"))
        if rate is not None and not 0 < rate <= 1:
            raise InputError("rate needs to lie in (0, 1]", repr(rate), "leave it None for the optimal one")
        sampler(tangents), find_slope(slope)
        self.num_tangents, self.tangents, self.slope, self.scale, self.rate = (
            num_tangents,
            tangents,
            slope,
            scale,
            rate,
        )
        self.guess: dict[str, Tensor] = {}

    def forward(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        with torch.no_grad():
            sample = sampler(self.tangents)
            objective = require(self, objective, Differentiable)
            key = key if key is not None else Key.draw()
            h = {name: self.guess.get(name, torch.zeros_like(p)) for name, p in params.items()}

            with at_full_precision(params):
                v = admitted(objective, sample(params, self.num_tangents, key))
            loss, c, aux, reached = find_slope(self.slope)(objective, params, v)
            finite(loss, c)
            v = reaching(v, reached)
            rho = self.rate if self.rate is not None else Control(h).shrinkage(sample, v.numel, v.num_tangents)
            s = rho if self.scale == "memory" else 1.0 if self.scale == "unbiased" else float(self.scale)
            with at_full_precision(params):
                remembered = Control(h)(c, v, rho)
                grad = {n: m.clone() for n, m in remembered.items()} if s == rho else Control(h)(c, v, s)
            self.guess = {**h, **remembered}
            return Estimate(loss, grad, c, key, aux)

    def extra_repr(self) -> str:
        return (
            f"num_tangents={self.num_tangents}, tangents={self.tangents!r}, slope={self.slope!r}, "
            f"scale={self.scale!r}, rate={self.rate!r}"
        )

    def get_extra_state(self) -> dict[str, Any]:
        """The memory, for `state_dict`."""
        return {"guess": {name: h.clone() for name, h in self.guess.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes the memory back from `state_dict`."""
        self.guess = {name: h.clone() for name, h in state["guess"].items()}
