"""Laws of the wall: one curve u+(y+) for every flow, and its inverse in what is known before the stress is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from forwardgrad.errors import InputError

_NEWTON_STEPS = 7  # and one more: to the last bits of float64 for Re_y of 1e-8 to 1e7, as the test says


class Law(Protocol):
    """A velocity profile near a wall, read in both directions."""

    def velocity(self, height: Tensor) -> Tensor:
        """u+ at y+, any shape."""

    def log_height(self, reynolds: Tensor) -> Tensor:
        """ln y+ at Re_y = u y / nu = u+ y+, any shape."""


@dataclass(frozen=True)
class Viscous:
    """u+ = y+, hence y+ = sqrt(Re_y): a laminar layer. A model around this law has to learn all of turbulence."""

    def velocity(self, height: Tensor) -> Tensor:
        """u+ at y+, any shape."""
        return height

    def log_height(self, reynolds: Tensor) -> Tensor:
        """ln y+ at Re_y, any shape."""
        return reynolds.log() / 2


@dataclass(frozen=True)
class Reichardt:
    r"""One smooth formula from the wall through the buffer layer to the logarithmic one.

    .. math:: u^+ = \tfrac1\kappa \ln(1 + \kappa y^+)
        + 7.8 \big(1 - e^{-y^+/11} - \tfrac{y^+}{11} e^{-y^+/3}\big)

    Args:
        kappa: von Karman's constant.

    Raises:
        InputError: kappa is not positive.

    References:
        | Vollstaendige Darstellung der turbulenten Geschwindigkeitsverteilung in glatten Leitungen (Reichardt, 1951)
    """

    kappa: float = 0.41

    def __post_init__(self) -> None:
        if not self.kappa > 0:
            raise InputError("Reichardt's law needs kappa > 0", repr(self.kappa), "use 0.41")

    def velocity(self, height: Tensor) -> Tensor:
        """u+ at y+, any shape."""
        buffer = 1 - torch.exp(-height / 11) - height / 11 * torch.exp(-height / 3)
        return torch.log1p(self.kappa * height) / self.kappa + 7.8 * buffer

    def log_height(self, reynolds: Tensor) -> Tensor:
        """ln y+ at Re_y, any shape, by Newton's method on ln u+ + ln y+ = ln Re_y, where the curve is nearly straight.

        Tangents and gradients pass through the last step alone, whose derivative is that of the inverse.
        """
        target = reynolds.log()
        with torch.no_grad():
            log_height = target / 2  # where the layer is viscous
            for _ in range(_NEWTON_STEPS):
                log_height = self._nearer(log_height, target)
        return self._nearer(log_height, target)

    def _nearer(self, log_height: Tensor, target: Tensor) -> Tensor:
        y = log_height.exp()
        u = self.velocity(y)
        return log_height + (target - u.log() - log_height) / (1 + y * self._slope(y) / u)

    def _slope(self, y: Tensor) -> Tensor:
        buffer = torch.exp(-y / 11) / 11 - torch.exp(-y / 3) / 11 + y / 33 * torch.exp(-y / 3)
        return 1 / (1 + self.kappa * y) + 7.8 * buffer
