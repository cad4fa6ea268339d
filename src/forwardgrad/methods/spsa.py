"""Simultaneous perturbation: the gradient from differences of losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.methods.forward import ForwardGradient
from forwardgrad.objective import Objective, Params
from forwardgrad.passport import Passport
from forwardgrad.slopes import Central
from forwardgrad.tangents import Key, Sampler


@dataclass(frozen=True)
class SPSA:
    r"""Gradient estimate from two losses per tangent; needs nothing but values.

    .. math::
        \hat g = \tfrac1K \sum_{k=1}^K \frac{f(\theta + \epsilon v_k) - f(\theta - \epsilon v_k)}{2 \epsilon}\, v_k

    Knows:     values (two losses per tangent)
    Cost:      2K forward passes
    Memory:    one forward pass
    Bias:      O(eps^2), and rounding of the loss over eps
    Variance:  (n - 1)/K |grad f|^2 for signs, n parameters

    Args:
        eps: the step, in units of the parameters.
        num_tangents: K >= 1.
        tangents: as for `ForwardGradient`.
        scale: "unbiased", "mmse", or a factor.

    Raises:
        InputError: eps or a scale that is not positive, K < 1, an unknown name.

    References:
        | Multivariate stochastic approximation using a simultaneous perturbation gradient approximation (Spall, 1992)
        | Fine-Tuning Language Models with Just Forward Passes (Malladi et al., 2023), Algorithm 1, arXiv 2305.17333

    Note:
        MeZO adds eps v to the weights, and takes it back: in half precision the weights drift. Here they are never
        written to: a product with W + eps a b^T is computed as x W^T + eps (x . b) a^T.
    """

    eps: float = 1e-3
    num_tangents: int = 1
    tangents: str | Sampler = "rank_one"
    scale: Literal["unbiased", "mmse"] | float = "unbiased"

    passport: ClassVar[Passport] = Passport(
        knows="values (two losses per tangent)",
        cost="2K forward passes",
        memory="one forward pass",
        bias="O(eps^2), and rounding of the loss over eps",
        variance="(n - 1)/K for signs",
        paper="Spall 1992; Malladi et al. 2023, Algorithm 1, arXiv 2305.17333",
        rung=0,
    )

    def __post_init__(self) -> None:
        self._forward()

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        return self._forward()(objective, params, key=key)

    def rebuild(
        self, objective: Objective, params: Params, slopes: Tensor, key: Key, reached: frozenset[str] | None = None
    ) -> dict[str, Tensor]:
        """The gradient of an earlier call from its slopes and key; see `ForwardGradient.rebuild`."""
        return self._forward().rebuild(objective, params, slopes, key, reached)

    def _forward(self) -> ForwardGradient:
        return ForwardGradient(self.num_tangents, self.tangents, slope=Central(self.eps), scale=self.scale)
