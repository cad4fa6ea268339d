r"""From K slopes to a gradient: :math:`\hat g = \sum_k w_k v_k` with weights that depend on what is wanted of it.

Legend: V = [v_1 .. v_K] the tangents, c the slopes, G = V^T V their Gram matrix, n the number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from forwardgrad.errors import InputError, nearest
from forwardgrad.tangents import Sampler, Tangents


class Combine(Protocol):
    """Turns slopes into a gradient."""

    def __call__(self, slopes: Tensor, tangents: Tangents, scale: float) -> dict[str, Tensor]:
        """The estimate, name -> tensor of the parameter's shape and dtype, dense or factored.

        Args:
            slopes: [K].
            tangents: the K tangents they were measured along.
            scale: s, a factor on the part that was measured.
        """

    def shrinkage(self, sampler: Sampler, n: int, num_tangents: int) -> float:
        """The scale at which the estimate is nearest to the gradient in mean square.

        Args:
            sampler: of the tangents.
            n: number of entries of all parameters together.
            num_tangents: K.
        """


@dataclass(frozen=True)
class Mean:
    r"""Unbiased: :math:`\hat g = \tfrac{s}{K} \sum_k c_k v_k`."""

    def __call__(self, slopes: Tensor, tangents: Tangents, scale: float = 1.0) -> dict[str, Tensor]:
        return tangents.weighted_sum(slopes * (scale / tangents.num_tangents))

    def shrinkage(self, sampler: Sampler, n: int, num_tangents: int) -> float:
        r""":math:`|g|^2 / \mathbb E|\hat g|^2`: K/(n+K-1) for signs, K/(n+K+1) for Gaussian tangents."""
        return 1.0 / sampler.second_moment(n, num_tangents)


@dataclass(frozen=True)
class Mmse:
    r"""The mean, shrunk to be nearest to the gradient: :math:`\hat g = s\,\alpha\,\tfrac1K \sum_k c_k v_k`.

    Args:
        sampler: where the tangents came from, which fixes :math:`\alpha = |g|^2 / \mathbb E|\hat g_{mean}|^2`.
    """

    sampler: Sampler

    def __call__(self, slopes: Tensor, tangents: Tangents, scale: float = 1.0) -> dict[str, Tensor]:
        alpha = Mean().shrinkage(self.sampler, tangents.numel, tangents.num_tangents)
        return Mean()(slopes, tangents, scale * alpha)

    def shrinkage(self, sampler: Sampler, n: int, num_tangents: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Project:
    r"""Orthogonal projection of the gradient onto the span of the tangents: :math:`\hat g = s\,V G^{+} V^\top g`.

    The Gram matrix is taken over all parameters together, and its pseudo-inverse over the eigenvalues that rounding
    has not eaten, so that nearly dependent tangents do no harm.

    Args:
        rtol: eigenvalues below rtol times the largest count as zero.

    Note:
        The reference code of arXiv 2410.17764 projects each parameter by itself with the global slopes, which is not
        the projection onto the span; this is.
    """

    rtol: float = 1e-6

    def __call__(self, slopes: Tensor, tangents: Tangents, scale: float = 1.0) -> dict[str, Tensor]:
        G = tangents.gram().double()
        eigenvalues, U = torch.linalg.eigh(G)
        kept = eigenvalues > self.rtol * eigenvalues[-1]
        inverse = torch.where(kept, 1 / torch.where(kept, eigenvalues, 1), 0)
        w = U @ (inverse * (U.T @ slopes.double()))
        return tangents.weighted_sum((scale * w).to(slopes.dtype))

    def shrinkage(self, sampler: Sampler, n: int, num_tangents: int) -> float:
        """1: <Pg, g> = |Pg|^2, a projection is already nearest along itself."""
        return 1.0


@dataclass(frozen=True)
class Control:
    r"""Around a guess h of the gradient: :math:`\hat g = h + \tfrac{s}{K} \sum_k (c_k - h \cdot v_k)\, v_k`.

    Unbiased whatever h; its variance is that of the mean with g - h in place of g. A scale s < 1 trusts h.

    Args:
        guess: h, by parameter name; a parameter left out has h = 0.

    Raises:
        InputError: when called, for a guess of another shape than its parameter.
    """

    guess: Mapping[str, Tensor]

    def __call__(self, slopes: Tensor, tangents: Tangents, scale: float = 1.0) -> dict[str, Tensor]:
        h = {name: x for name, x in self.guess.items() if name in tangents}
        for name, x in h.items():
            if x.shape != tangents[name].shape:
                raise InputError(
                    "a guess needs the shape of its parameter",
                    f"{list(x.shape)}",
                    "guess h per parameter",
                    path=name,
                )
        if not h:
            return Mean()(slopes, tangents, scale)
        residual = Mean()(slopes - tangents.dot(h).to(slopes.dtype), tangents, scale)
        return {name: h[name] + r if name in h else r for name, r in residual.items()}

    def shrinkage(self, sampler: Sampler, n: int, num_tangents: int) -> float:
        return Mean().shrinkage(sampler, n, num_tangents)


def combiner(given: str | Combine, sampler: Sampler) -> Combine:
    """The combine object behind a shorthand name; an object is given back as it is.

    Args:
        given: "mean", "project", "mmse", or an object.
        sampler: the one of the tangents, which fixes how far "mmse" shrinks.

    Raises:
        InputError: an unknown name, or an object that is no combine.
    """
    names: dict[str, Callable[[], Combine]] = {"mean": Mean, "project": Project, "mmse": lambda: Mmse(sampler)}
    if isinstance(given, str) and given in names:
        return names[given]()
    if isinstance(given, (str, type)) or not callable(given):
        raise InputError("combine= needs a known name or a combine object", f"`{given}`", nearest(str(given), names))
    return given
