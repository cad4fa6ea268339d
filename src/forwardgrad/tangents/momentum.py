"""Directions that lean towards where the last steps went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.gradient import FactoredGradient
from forwardgrad.tangents.collection import Tangents
from forwardgrad.tangents.key import Key
from forwardgrad.tangents.kinds import Dense
from forwardgrad.tangents.protocol import Sampler
from forwardgrad.tangents.rademacher import signs

# The stream of the sign that each tangent gives to the momentum: shared by all parameters, named like none.
_STREAM = "<momentum>"


@dataclass(frozen=True, eq=False)
class MomentumMixed:
    """v = sqrt(1 - mix) z + s sqrt(mix n) m/|m|, with z from `base`, m the momentum and s a random sign.

    E[v v^T] = C = (1 - mix) I + mix n m m^T/|m|^2, so the estimate is biased on purpose: E[g_hat] = C g.
    Along the momentum the gradient is seen 1 + mix (n - 1) times as large, across it 1 - mix times. C is
    positive definite for mix < 1, so E[g_hat] still points uphill. Where the momentum is zero, v = z.

    Args:
        momentum: name -> tensor of the parameter's shape (an optimizer's buffer); a parameter left out counts
            as zero.
        mix: in [0, 1], the share of |v|^2 that lies along the momentum.
        base: the sampler of z, with E[z z^T] = I.

    Raises:
        InputError: mix outside [0, 1].

    References:
        Maheswaranathan, Metz, Tucker, Choi, Sohl-Dickstein (2019), Guided evolutionary strategies.
    """

    momentum: Mapping[str, Tensor]
    mix: float
    base: Sampler

    def __post_init__(self) -> None:
        if not 0 <= self.mix <= 1:
            raise InputError(
                needs="MomentumMixed needs mix in [0, 1]",
                found=f"mix={self.mix}",
                cure="choose a share between 0 (no momentum) and 1 (momentum only)",
            )

    def __call__(self, params: Mapping[str, Tensor], num_tangents: int, key: Key) -> Tangents:
        """Draws mixed directions, written out densely; see `Sampler`.

        Raises:
            InputError: a momentum that names no parameter or has another shape; and whatever `base` refuses.
        """
        self._check(params)
        drawn = self.base(params, num_tangents, key)
        dense = {n: m.densify() if isinstance(m, FactoredGradient) else m.detach() for n, m in self.momentum.items()}
        norm = sqrt(sum(float(m.double().square().sum()) for m in dense.values()))
        if norm == 0 or self.mix == 0:
            return drawn
        device = drawn[next(iter(drawn))].device
        sign = signs(((_STREAM, torch.float64, (torch.Size(()),)),), num_tangents, key, device)[_STREAM][0]
        coefficient = sign * (sqrt(self.mix * drawn.numel) / norm)
        kinds = {}
        for name, kind in drawn.items():
            data = kind.dense() * sqrt(1 - self.mix)
            if name in dense:
                row = dense[name].to(kind.dtype)
                data = data.addcmul_(coefficient.to(kind.dtype).view(-1, *(1,) * row.dim()), row)
            kinds[name] = Dense(data)
        return Tangents(kinds)

    def second_moment(self, n: int, num_tangents: int) -> float:
        """For a gradient of unknown direction, E<g, m>^2 = |g|^2 |m|^2/n (along the momentum it is larger).

        With S the base's value at K = 1 and u = mix, E|g_hat|^2/|g|^2 is
        1/K ((1 - u)^2 S + u (2 - u) n + 4 u (1 - u)) + (1 - 1/K) (1 + u^2 (n - 1)), where the second bracket
        is |C g|^2/|g|^2. Exact for a base of independent tangents with E|z|^2 = n.
        """
        u, single = self.mix, self.base.second_moment(n, 1)
        one = (1 - u) ** 2 * single + u * (2 - u) * n + 4 * u * (1 - u)
        return one / num_tangents + (1 - 1 / num_tangents) * (1 + u * u * (n - 1))

    def _check(self, params: Mapping[str, Tensor]) -> None:
        for name, momentum in self.momentum.items():
            if name not in params or momentum.shape != params[name].shape:
                shape = tuple(params[name].shape) if name in params else "no such parameter"
                raise InputError(
                    needs="MomentumMixed needs momentum of each parameter's shape",
                    found=f"shape {tuple(momentum.shape)} for {shape}",
                    cure="pass a mapping from parameter names to the optimizer's buffers",
                    path=name,
                )
