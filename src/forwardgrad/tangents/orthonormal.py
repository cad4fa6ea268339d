"""Directions that are orthogonal to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.tangents.collection import Tangents
from forwardgrad.tangents.gaussian import as_kind, normals
from forwardgrad.tangents.key import Key


@dataclass(frozen=True)
class Orthonormal:
    """v_k = sqrt(n) q_k, the q_k orthonormal over all parameters together, and uniform among such frames.

    The estimate is n/K times the projection of g onto their span, so E|g_hat - g|^2 = (n/K - 1) |g|^2: K = n
    is exact. The frame is the Q of a Gaussian's QR, with the signs that make the diagonal of R positive,
    which makes it uniform (Haar) and a function of the key alone. It costs O(n K^2) time and K dense vectors.

    References:
        Kozak, Becker, Doostan, Tenorio (2021), A stochastic subspace approach to gradient-free optimization.
        Mezzadri (2007), How to generate random matrices from the classical compact groups (the signs).
    """

    def __call__(self, params: Mapping[str, Tensor], num_tangents: int, key: Key) -> Tangents:
        """Draws a frame, equal on every device up to rounding; see `Sampler`.

        Raises:
            InputError: more tangents than the parameters have entries, and as `Sampler.__call__`.
        """
        drawn = normals(params, num_tangents, key)
        sizes = [param.numel() for param in params.values()]
        check_count(num_tangents, sum(sizes), "orthonormal tangents")
        dtype = torch.float64 if any(numbers.dtype == torch.float64 for numbers in drawn.values()) else torch.float32
        columns = torch.cat([drawn[name].to(dtype) for name in params], dim=1).T
        q, r = torch.linalg.qr(columns)
        frame = q * (torch.where(r.diagonal() < 0, -1.0, 1.0).to(dtype) * sqrt(sum(sizes)))
        parts = zip(params.items(), frame.T.split(sizes, dim=1), strict=True)
        return Tangents({name: as_kind(part, param) for (name, param), part in parts})

    def second_moment(self, n: int, num_tangents: int) -> float:
        """n/K."""
        return n / num_tangents


def check_count(num_tangents: int, n: int, what: str) -> None:
    """Refuses more tangents than there are dimensions.

    Args:
        num_tangents: K.
        n: entries of all parameters together.
        what: the tangents asked for, for the message.

    Raises:
        InputError: K > n.
    """
    if num_tangents > n:
        raise InputError(
            needs=f"{what} need num_tangents <= n, the number of parameter entries",
            found=f"num_tangents={num_tangents}, n={n}",
            cure=f"ask for at most {n} tangents, or take tangents='rank_one'",
        )
