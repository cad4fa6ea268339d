"""Simultaneous perturbation by signs: only which of two losses is larger is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from forwardgrad.errors import InputError, RungError
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.fixedpoint.net import FixedPointObjective
from forwardgrad.objective import Objective, Params
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key
from forwardgrad.tangents.rademacher import signs

_COARSEST = 14  # a perturbation is at most 2^14 steps of a grid


@dataclass(frozen=True)
class SignSPSA:
    r"""Sign-m-SPSA in integers: m votes on which way is down.

    .. math::
        \hat g = \tfrac1m \sum_{i=1}^m \mathrm{sign}\big( L(w + \epsilon z_i) - L(w - \epsilon z_i) \big)\, z_i,
        \qquad \epsilon = 2^{-e}

    It is of the type of every method, on a `fg.FixedPointObjective`; `Estimate.grad` holds the integer sums of votes,
    m times the gradient, and `Estimate.slopes` the m signs. `net.descend(estimate, rate_exponent)` divides by m with
    the shift that it makes anyway.

    Knows:     values (two integer losses per tangent, of which only the order is used)
    Cost:      2m forward passes
    Memory:    one forward pass and a second copy of the weights
    Bias:      the length is lost: E g_hat is about sqrt(2/pi) g/|g| for many parameters, none of which stands out
    Variance:  about (pi n/2 - 1)/m relative to |E g_hat|^2, n parameters; a loss that does not differ votes 0

    Args:
        eps_exponent: e. The step must be one of the weights' grid at least.
        num_tangents: m, a power of two up to 2^14.

    Raises:
        InputError: m that is no power of two; when called, weights that are not the net's, a step too fine for the
            grid of a weight or too coarse for 32 bits.
        RungError: an objective that is not fixed-point.

    References:
        | Stepping Forward on the Last Mile (Feng et al., 2024), sign-m-SPSA, arXiv 2411.04036

    Note:
        The paper has no public code. Directions are signs in place of Gaussians of 8 bits: they need no rounding and
        no scale of their own. Its 8-bit activations are kept everywhere but in the logits, which the loss reads from
        the 32-bit accumulators. Scales are powers of two, and so are step and rate.
    """

    eps_exponent: int
    num_tangents: int = 1

    passport: ClassVar[Passport] = Passport(
        knows="values (two integer losses per tangent, of which only the order is used)",
        cost="2m forward passes",
        memory="one forward pass and a second copy of the weights",
        bias="the length is lost: E g_hat is about sqrt(2/pi) g/|g|",
        variance="about (pi n/2 - 1)/m relative to |E g_hat|^2",
        paper="Feng et al. 2024, sign-m-SPSA, arXiv 2411.04036",
        rung=0,
    )

    def __post_init__(self) -> None:
        m = self.num_tangents
        if isinstance(m, bool) or not isinstance(m, int) or not 1 <= m <= 1 << 14 or m & (m - 1):
            raise InputError("num_tangents needs a power of two from 1 to 16384", repr(m), "use 1, 2, 4, 8, ...")
        if isinstance(self.eps_exponent, bool) or not isinstance(self.eps_exponent, int):
            raise InputError("eps_exponent needs a whole number", repr(self.eps_exponent), "give e of eps = 2^-e")

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        if not isinstance(objective, FixedPointObjective):
            cure = "wrap the net in fg.FixedPointObjective, or use fg.SPSA on floating-point weights"
            raise RungError("SignSPSA needs a fixed-point objective", type(objective).__name__, cure)
        self._admit(objective, params)
        key = key if key is not None else Key.draw()
        z = self._directions(params, key)
        losses = []
        for i in range(self.num_tangents):
            up = {name: v[i] for name, v in z.items()}
            down = {name: -v for name, v in up.items()}
            losses.append([objective(objective.net.moved(params, way, self.eps_exponent)) for way in (up, down)])
        plus, minus = (torch.stack(side) for side in zip(*losses, strict=True))
        votes = (plus - minus).sign()
        grad = {name: torch.tensordot(votes, v.to(torch.int32), 1).to(torch.int16) for name, v in z.items()}
        return Estimate((plus[0] >> 1) + (minus[0] >> 1), grad, votes, key)

    def _directions(self, params: Params, key: Key) -> dict[str, Tensor]:
        """Signs [m, *shape], int8, from the same stream as every tangent of this library."""
        device = next(iter(params.values())).device
        wanted = tuple((name, torch.int8, (w.shape,)) for name, w in params.items())
        return {name: drawn for name, (drawn,) in signs(wanted, self.num_tangents, key, device).items()}

    def _admit(self, objective: FixedPointObjective, params: Params) -> None:
        if not params:
            raise InputError("SignSPSA needs weights to move", "none", "leave requires_grad on for some of the model's")
        for name, w in params.items():
            own = objective.net.weights.get(name)
            if own is None or (w.dtype, w.shape) != (own.dtype, own.shape):
                found, cure = f"{w.dtype} {list(w.shape)}", "pass objective.params"
                raise InputError("SignSPSA needs the weights of the objective's net", found, cure, path=name)
            grid = objective.net.exponents[name]
            if not 0 <= grid - self.eps_exponent <= _COARSEST:
                needs = "a perturbation needs to be a step of the weights' grid, or up to 2^14 of them"
                found = f"eps = 2^{-self.eps_exponent} on a grid of 2^{-grid}"
                low, high = grid - _COARSEST, grid
                raise InputError(needs, found, f"choose eps_exponent from {low} to {high}", path=name)
