"""Layers that can be walked through in both directions, and a start for stock ones that lets cotangents through."""

from __future__ import annotations

from forwardgrad.layers.conditioned import conditioned_
from forwardgrad.layers.coupling import Additive, Affine, Coupling, Mix

__all__ = ["Additive", "Affine", "Coupling", "Mix", "conditioned_"]
