"""One method for the first steps, another one for the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from forwardgrad.errors import InputError
from forwardgrad.estimate import Deliver, Estimate, Method
from forwardgrad.methods.forward import ForwardGradient
from forwardgrad.methods.hypergradient import Neumann
from forwardgrad.objective import Objective, Params
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key


@dataclass(frozen=True)
class TwoPhase:
    r"""A cheap biased method far from the optimum, an unbiased one near it.

    .. math:: \hat g_i = \hat g^{(1)}_i \text{ for } i < S, \qquad \hat g_i = \hat g^{(2)}_i \text{ for } i \ge S

    Which phase a step is in depends on its key alone: ``key.step`` is i.

    Knows:     what the phase at hand knows
    Cost:      that of the phase at hand
    Memory:    that of the phase at hand
    Bias:      that of the phase at hand: in the end the second one's
    Variance:  that of the phase at hand

    Args:
        first: method of the steps before S; by default the Hessian-free hypergradient.
        second: method of the others; by default (FG)^2U with 8 directions.
        steps: S >= 0.

    Raises:
        InputError: S < 0; when called, no key and S > 0.

    References:
        | Memory-Efficient Gradient Unrolling for Large-Scale Bi-level Optimization (Shen et al., 2024),
          the two-phase paradigm, arXiv 2406.14095
    """

    first: Method = field(default_factory=lambda: Neumann(0))
    second: Method = field(default_factory=lambda: ForwardGradient(8))
    steps: int = 100

    passport: ClassVar[Passport] = Passport(
        knows="what the phase at hand knows",
        cost="that of the phase at hand",
        memory="that of the phase at hand",
        bias="that of the phase at hand: in the end the second one's",
        variance="that of the phase at hand",
        paper="Shen et al. 2024, arXiv 2406.14095",
        rung="tape",
    )

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:
            raise InputError("steps needs a whole number of at least 0", repr(self.steps), "0 skips the first phase")

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        if key is None and self.steps:
            cure = "give key=fg.Key(seed, step) with the number of the step"
            raise InputError("two phases need a key, whose step tells which it is", "none", cure)
        phase = self.first if key is not None and key.step < self.steps else self.second
        return phase(objective, params, key=key, into=into)
