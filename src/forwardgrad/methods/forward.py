"""Forward gradients: the gradient from slopes along random tangents."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import ClassVar, Literal

import torch
from torch import Tensor

from forwardgrad.combine import Combine, combiner
from forwardgrad.errors import InputError, LostTangentError
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.objective import Differentiable, Objective, Params, finite, require
from forwardgrad.passport import Passport
from forwardgrad.slopes import Jvp, Slope, slope
from forwardgrad.tangents import Key, Sampler, Tangents, sampler


@dataclass(frozen=True)
class ForwardGradient:
    r"""Gradient estimate from directional derivatives along random tangents.

    .. math:: \hat g = \tfrac1K \sum_{k=1}^K (\nabla f \cdot v_k)\, v_k, \qquad \mathbb E[v_k v_k^\top] = I

    Unbiased, since :math:`\mathbb E[v v^\top] \nabla f = \nabla f`. Its length is about :math:`\sqrt{n/K}\,|\nabla f|`,
    so a learning rate found with backprop diverges: use ``scale="mmse"`` and `fg.suggest_lr`.

    Knows:     tangents (one push of K tangents; no backward pass, no tape)
    Cost:      1 + K forward passes with rank-one tangents, 1 + 2K with dense ones
    Memory:    one forward pass and K times its live activations; chunk_size bounds K
    Bias:      0 (mean); scaled by K/(n+K-1) (mmse); projected onto the span of the tangents (project)
    Variance:  (n - 1)/K |grad f|^2 for signs, (n + 1)/K for Gaussian tangents, n parameters

    Args:
        num_tangents: K >= 1.
        tangents: "rank_one" (signs; outer products for matrices and kernels), "rademacher", "gaussian", "sphere",
            "orthonormal", "coordinate", or a sampler.
        combine: "mean", "project", "mmse", or an object.
        slope: "jvp", "central", "one_sided", or an object.
        scale: "unbiased", "mmse" (nearest to the gradient in mean square), or a factor.
        chunk_size: tangents pushed at once; None for all, "auto" to fit `byte_budget`.
        byte_budget: bytes above the weights for "auto".

    Raises:
        InputError: K < 1, an unknown name, a scale that is not positive; when called, K > n for orthonormal and
            coordinate tangents.
        RungError: an objective that cannot push tangents.

    References:
        | Gradients without Backpropagation (Baydin et al., 2022), Algorithm 1, arXiv 2202.08587
        | Multi-Tangent Forward Gradients (Fluegel et al., 2024), section 3, arXiv 2410.17764

    Note:
        Signs in place of Gaussians, the choice of least variance; in a matrix as outer products of signs, which cost
        one matrix-vector product and have the same mean and mean squared error for any gradient. Their slopes have
        heavier tails where the gradient is itself of low rank. Baydin et al. have K = 1; the mean over K and the
        projection are those of Fluegel et al., the projection over all parameters together (see `Project`).
    """

    num_tangents: int = 1
    tangents: str | Sampler = "rank_one"
    combine: str | Combine = "mean"
    slope: str | Slope = "jvp"
    scale: Literal["unbiased", "mmse"] | float = "unbiased"
    chunk_size: int | Literal["auto"] | None = None
    byte_budget: int | None = None

    passport: ClassVar[Passport] = Passport(
        knows="tangents (one push of K tangents; no backward pass, no tape)",
        cost="1 + K forward passes with rank-one tangents, 1 + 2K with dense ones",
        memory="one forward pass and K times its live activations; chunk_size bounds K",
        bias="0 (mean); scaled by K/(n+K-1) (mmse); projected onto the span of the tangents (project)",
        variance="(n - 1)/K for signs, (n + 1)/K for Gaussian tangents",
        paper="Baydin et al. 2022, Algorithm 1, arXiv 2202.08587",
        rung=1,
    )

    def __post_init__(self) -> None:
        check_options(self.num_tangents, self.scale, ("unbiased", "mmse"))
        sample = sampler(self.tangents)
        measure = slope(self.slope)
        combiner(self.combine, sample), Jvp(self.chunk_size, self.byte_budget)
        if self.chunk_size is not None and measure != Jvp():
            raise InputError(
                'chunk_size needs slope="jvp"',
                f"slope={self.slope!r}",
                "leave it out: a Jvp object has its own, finite differences take one tangent at a time",
            )

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        with torch.no_grad():
            measure = slope(self.slope)
            if isinstance(measure, Jvp):
                objective = require(self, objective, Differentiable)
                measure = Jvp(self.chunk_size, self.byte_budget) if self.chunk_size is not None else measure
            key = key if key is not None else Key.draw()

            v = self._drawn(objective, params, key)
            loss, c, aux, reached = measure(objective, params, v)
            finite(loss, c)
            return Estimate(loss, self._combined(params, reaching(v, reached), c), c, key, aux)

    def rebuild(
        self, objective: Objective, params: Params, slopes: Tensor, key: Key, reached: frozenset[str] | None = None
    ) -> dict[str, Tensor]:
        """The gradient of an earlier call, bit for bit, from its slopes and key; nothing is evaluated.

        Args:
            objective: says which tangents its parameters may have.
            params: names, shapes and dtypes of then; their values are not read.
            slopes: [K], of the estimate.
            key: of the estimate.
            reached: names in the estimate's gradient; None for all.
        """
        with torch.no_grad():
            return self._combined(params, reaching(self._drawn(objective, params, key), reached), slopes)

    def _drawn(self, objective: Objective, params: Params, key: Key) -> Tangents:
        with at_full_precision(params):
            return admitted(objective, sampler(self.tangents)(params, self.num_tangents, key))

    def _combined(self, params: Params, v: Tangents, c: Tensor) -> dict[str, Tensor]:
        sample = sampler(self.tangents)
        combine = combiner(self.combine, sample)
        s = self._scale(combine, sample, v)
        with at_full_precision(params):
            return combine(c, v, s)

    def _scale(self, combine: Combine, sample: Sampler, v: Tangents) -> float:
        if self.scale == "unbiased":
            return 1.0
        if self.scale == "mmse":
            return combine.shrinkage(sample, v.numel, v.num_tangents)
        return float(self.scale)


def check_options(num_tangents: int, scale: str | float, names: tuple[str, ...]) -> None:
    """What every method along random tangents asks of its options.

    Args:
        num_tangents: K.
        scale: one of `names`, or a factor.
        names: the scales that have a name.

    Raises:
        InputError: K < 1, an unknown name, a factor that is not positive and finite.
    """
    if isinstance(num_tangents, bool) or not isinstance(num_tangents, int) or num_tangents < 1:
        raise InputError("num_tangents needs a whole number K >= 1", repr(num_tangents), "use 1 or more")
    if scale not in names and not (isinstance(scale, Real) and 0 < scale < inf):
        known = " or ".join(f'"{name}"' for name in names)
        raise InputError(f"scale needs {known}, or a factor > 0", repr(scale), "use one of them")


def at_full_precision(params: Params) -> AbstractContextManager[object]:
    """Outside the caller's autocast, which is meant for the model and not for the sums over tangents."""
    device = next((p.device.type for p in params.values()), "cpu")
    known = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if known and torch.is_autocast_enabled(device) else nullcontext()


def admitted(objective: Objective, v: Tangents) -> Tangents:
    """The tangents that the objective lets its parameters have."""
    admit = getattr(objective, "admit", None)
    return v if admit is None else admit(v)


def reaching(v: Tangents, reached: frozenset[str] | None) -> Tangents:
    """The tangents of the parameters that the loss depends on: the rest would only add noise to their own gradient.

    Raises:
        LostTangentError: the loss depends on none of them.
    """
    if reached is None or len(reached) == len(v):
        return v
    if not reached:
        raise LostTangentError(
            "a gradient needs the loss to depend on a parameter in a way that tangents can follow",
            "a loss that none of the tangents reached",
            "compute it with tensors from the parameters to the end; for a black box use fg.SPSA",
            path="loss",
        )
    return Tangents({name: kind for name, kind in v.items() if name in reached})
