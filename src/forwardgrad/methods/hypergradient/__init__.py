"""Hypergradients that look at part of a loop only: cheaper than reverse unrolling, and biased."""

from __future__ import annotations

from forwardgrad.methods.hypergradient.neumann import Neumann
from forwardgrad.methods.hypergradient.truncated import TruncatedUnroll

__all__ = ["Neumann", "TruncatedUnroll"]
