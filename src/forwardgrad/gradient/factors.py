"""The algebra of L diag(w) R^T without its entries."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Factors:
    """The matrix G = L diag(w) R^T, [m, n] of rank at most R. Operations return new factors and write to
    none.

    Args:
        left: L, [m, R].
        right: R, [n, R], same dtype and device.
        weights: w, [R], float32 or wider.
    """

    left: Tensor
    right: Tensor
    weights: Tensor

    @property
    def rank(self) -> int:
        """R."""
        return self.weights.shape[0]

    @property
    def size(self) -> int:
        """Numbers held by the factors, R (m + n)."""
        return self.left.numel() + self.right.numel()

    def product(self) -> Tensor:
        """G written out, [m, n]."""
        left, right = self._weighted()
        return left @ right.T

    def scaled(self, weights: Tensor) -> Factors:
        """The same L and R with other weights [R]."""
        return replace(self, weights=weights)

    def joined(self, other: Factors, scale: float) -> Factors:
        """G + scale G', of rank R + R'."""
        return Factors(
            torch.cat((self.left, other.left), dim=1),
            torch.cat((self.right, other.right), dim=1),
            torch.cat((self.weights, other.weights * scale)),
        )

    def emptied(self) -> Factors:
        """The zero matrix of the same shape: rank 0."""
        return Factors(self.left[:, :0], self.right[:, :0], self.weights[:0])

    def cloned(self) -> Factors:
        """The same in memory of its own."""
        return Factors(self.left.clone(), self.right.clone(), self.weights.clone())

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Factors:
        """L and R in another dtype, all of it on another device."""
        left, right = (factor.to(dtype=dtype, device=device) for factor in (self.left, self.right))
        return Factors(left, right, self.weights.to(left.device))

    def norm(self) -> Tensor:
        """|G|_F = sqrt(w^T ((L^T L) * (R^T R)) w), [] in float64."""
        left, right, weights = self.left.double(), self.right.double(), self.weights.double()
        return (weights @ ((left.T @ left) * (right.T @ right)) @ weights).clamp_min(0).sqrt()

    def pour(self, into: Tensor, alpha: float, beta: float) -> bool:
        """In place, into = beta into + alpha G (reshaped), by one matrix product and no temporary of that
        size.

        The trailing dimensions are taken in their order in memory, so channels-last kernels need no copy
        either.

        Args:
            into: of shape (m, *rest) with prod(rest) = n.
            alpha: factor of G.
            beta: factor of what is there.

        Returns:
            False, and nothing is done, where the memory of `into` cannot be read as one matrix.
        """
        order = sorted(range(1, into.dim()), key=into.stride, reverse=True)
        try:
            matrix = into.permute(0, *order).view(into.shape[0], -1)
        except RuntimeError:
            return False
        left, right = self._weighted()
        if order != sorted(order):
            stacked = right.reshape(*into.shape[1:], -1)
            right = stacked.permute(*(dim - 1 for dim in order), -1).reshape(right.shape)
        matrix.addmm_(left.to(into.dtype), right.to(into.dtype).T, alpha=alpha, beta=beta)
        return True

    def _weighted(self) -> tuple[Tensor, Tensor]:
        """L diag(w) and R, or L and R diag(w), whichever is the smaller to make."""
        if self.left.shape[0] <= self.right.shape[0]:
            return (self.left * self.weights).to(self.left.dtype), self.right
        return self.left, (self.right * self.weights).to(self.right.dtype)
