"""`Channel`: the mean flow between two plates in one dimension, its wall resolved or modelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from forwardgrad.errors import InputError

Stress = Callable[[Tensor, Tensor, float], Tensor]  # (velocity, height, viscosity) -> wall stress

_DAMPING = 26.0  # van Driest's A+
_HALVINGS = 50  # of an interval of 2: to the last bit of float64


def resolved(velocity: Tensor, height: Tensor, viscosity: float) -> Tensor:
    """Wall stress nu u / y of a first cell that lies inside the viscous layer."""
    return viscosity * velocity / height


def uniform(cells: int) -> Tensor:
    """Faces [N + 1] of N equal cells between the wall at 0 and the centre at 1."""
    return torch.linspace(0, 1, _counted(cells) + 1, dtype=torch.float64)


def stretched(cells: int, stretch: float = 2.6) -> Tensor:
    """Faces [N + 1] that crowd at the wall: 1 - tanh(a (1 - i/N)) / tanh a.

    Args:
        cells: N.
        stretch: a > 0; with 2.6 the first of 128 cells is a 2200th of the half height.
    """
    faces = torch.linspace(1, 0, _counted(cells) + 1, dtype=torch.float64) * stretch
    return 1 - torch.tanh(faces) / torch.tanh(torch.tensor(stretch, dtype=torch.float64))


@dataclass(frozen=True)
class Channel:
    r"""Mean velocity over the half height of a channel, at a constant flow rate.

    .. math:: \partial_t U = G + \partial_y \tau, \qquad \tau = (\nu + \ell^2 |\partial_y U|)\, \partial_y U, \qquad
        \ell = \big(0.14 - 0.08 (1-y)^2 - 0.06 (1-y)^4\big) \big(1 - e^{-y^+/26}\big)

    in units of the half height and the bulk velocity, so that nu = 1/Re_b and tau_w = c_f/2. The mixing length is that
    of Nikuradse, damped at the wall by van Driest. No stress at the centre; at the wall `stress`. The pressure gradient
    G = tau_w keeps the flow rate, in every time step and not only at the end.

    Args:
        faces: [N + 1] from 0 at the wall to 1 at the centre, float64; see `uniform` and `stretched`.
        viscosity: 1/Re_b.
        stress: ``stress(velocity, height, viscosity)`` at the wall: `resolved`, or ``WallModel(..).double().stress``.
        cell: whose centre `stress` is asked at; 0 for a resolved wall.

    Raises:
        InputError: faces that do not rise from 0 to 1, a viscosity that is not positive, a cell that is not there.

    References:
        | Gesetzmaessigkeiten der turbulenten Stroemung in glatten Rohren (Nikuradse, 1932)
        | On turbulent flow near a wall (van Driest, 1956)
    """

    faces: Tensor
    viscosity: float
    stress: Stress = resolved
    cell: int = 0

    def __post_init__(self) -> None:
        rises = self.faces.ndim == 1 and len(self.faces) > 2 and bool((self.faces.diff() > 0).all())
        if not rises or float(self.faces[0]) != 0 or abs(float(self.faces[-1]) - 1) > 1e-12:
            found = f"{list(self.faces.shape)} from {float(self.faces.min()):g} to {float(self.faces.max()):g}"
            raise InputError("a channel needs faces that rise from 0 to 1", found, "use `uniform` or `stretched`")
        if not self.viscosity > 0:
            raise InputError("a channel needs a viscosity > 0", repr(self.viscosity), "give 1/Re_b")
        if not 0 <= self.cell < len(self.faces) - 1:
            found = f"{self.cell} of {len(self.faces) - 1}"
            raise InputError("the wall stress needs a cell of the channel", found, "name one from 0 up")

    @property
    def heights(self) -> Tensor:
        """Of the cells' centres [N]."""
        return (self.faces[1:] + self.faces[:-1]) / 2

    def wall_stress(self, velocity: Tensor) -> Tensor:
        """tau_w [] of a profile [N]: the model's answer at its cell."""
        return self.stress(velocity[self.cell], self.heights[self.cell], self.viscosity)

    def advance(self, velocity: Tensor, dt: float) -> Tensor:
        """The profile [N] a time step later, explicitly; its mean stays. Tangents and gradients pass through.

        Args:
            velocity: [N].
            dt: at most `stable_step(velocity)`.
        """
        wall = self.wall_stress(velocity)
        slope = velocity.diff() / self.heights.diff()
        inside = (self.viscosity + self._mixing(wall).square() * slope.abs()) * slope
        stress = torch.cat([wall.reshape(1), inside, torch.zeros_like(velocity[:1])])
        return velocity + dt * (wall + stress.diff() / self.faces.diff())

    @torch.no_grad()
    def stable_step(self, velocity: Tensor) -> float:
        """The longest explicit time step: half of what the linearised flux lets grow.

        Args:
            velocity: [N], for example the steady one.
        """
        slope = velocity.diff() / self.heights.diff()
        eddy = self.viscosity + 2 * self._mixing(self.wall_stress(velocity)).square() * slope.abs()
        widths = self.faces.diff()
        return float(0.5 * (self.heights.diff() * torch.minimum(widths[1:], widths[:-1]) / (2 * eddy)).min())

    @torch.no_grad()
    def steady(self) -> Tensor:
        """The profile [N] that `advance` leaves as it is, with a mean of 1.

        With tau = tau_w (1 - y) every slope follows from the wall stress, and that from the velocity at its cell; so
        one number is looked for, by halving.
        """
        low, high = torch.zeros((), dtype=torch.float64), torch.full((), 2.0, dtype=torch.float64)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            too_much = bool((self._balanced(middle) * self.faces.diff()).sum() > 1)
            low, high = (low, middle) if too_much else (middle, high)
        return self._balanced((low + high) / 2)

    def _balanced(self, at_cell: Tensor) -> Tensor:
        """The profile in balance that has this velocity at the cell."""
        wall = self.stress(at_cell, self.heights[self.cell], self.viscosity)
        length = self._mixing(wall)
        stress = wall * (1 - self.faces[1:-1])
        root = (self.viscosity**2 + 4 * length.square() * stress).sqrt()
        steps = 2 * stress / (self.viscosity + root) * self.heights.diff()  # the root of nu s + l^2 s^2 = tau
        shape = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])
        return shape - shape[self.cell] + at_cell

    def _mixing(self, wall: Tensor) -> Tensor:
        """The mixing length at the inner faces [N - 1]."""
        y = self.faces[1:-1]
        height = y * wall.abs().sqrt() / self.viscosity
        length = 0.14 - 0.08 * (1 - y) ** 2 - 0.06 * (1 - y) ** 4
        return length * (1 - torch.exp(-height / _DAMPING))


def _counted(cells: int) -> int:
    if isinstance(cells, bool) or not isinstance(cells, int) or cells < 2:
        raise InputError("a channel needs two cells or more", repr(cells), "use 16 with a wall model, 100 without")
    return cells
