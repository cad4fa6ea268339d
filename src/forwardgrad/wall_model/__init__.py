"""Wall models: the stress that a turbulent flow exerts on a wall, out of its velocity at one height above it.

All of it is kinematic, divided by the density: velocities u in m/s, heights y in m, viscosities nu in m^2/s, stresses
tau = u_tau^2 in m^2/s^2, with u_tau the friction velocity. In wall units u+ = u / u_tau and y+ = y u_tau / nu.
"""

from __future__ import annotations

from forwardgrad.wall_model.channel import Channel, resolved, stretched, uniform
from forwardgrad.wall_model.law import Law, Reichardt, Viscous
from forwardgrad.wall_model.model import WallModel

__all__ = ["Channel", "Law", "Reichardt", "Viscous", "WallModel", "resolved", "stretched", "uniform"]
