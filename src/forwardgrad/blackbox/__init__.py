"""Black boxes: solvers that nobody can differentiate, and what learns around them."""

from __future__ import annotations

from forwardgrad.blackbox.box import BlackBox
from forwardgrad.blackbox.control import SurrogateControl
from forwardgrad.blackbox.iterations import iterations_to
from forwardgrad.blackbox.petsc import ksp_history
from forwardgrad.blackbox.relaxation import sor_history
from forwardgrad.blackbox.surrogate import Surrogate

__all__ = ["BlackBox", "Surrogate", "SurrogateControl", "iterations_to", "ksp_history", "sor_history"]
