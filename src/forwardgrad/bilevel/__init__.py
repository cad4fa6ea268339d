"""Bilevel problems: hyperparameters judged by what an inner loop makes of them."""

from __future__ import annotations

from forwardgrad.bilevel.growth import TangentGrowth, tangent_growth
from forwardgrad.bilevel.unroll import Unroll

__all__ = ["TangentGrowth", "Unroll", "tangent_growth"]
