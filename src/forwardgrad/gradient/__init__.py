"""Gradients kept as products of thin factors, in the form of ordinary tensors."""

from __future__ import annotations

from forwardgrad.gradient.factored import FactoredGradient

__all__ = ["FactoredGradient"]
