"""Exact gradients in little memory: cotangents carried forward through inverse Jacobians, layer by layer."""

from __future__ import annotations

from forwardgrad.exact import rules  # noqa: F401 fills the table
from forwardgrad.exact.moonwalk import Moonwalk
from forwardgrad.exact.pure import PureMoonwalk
from forwardgrad.exact.registry import LayerRule, Swept, layer_rule

__all__ = ["LayerRule", "Moonwalk", "PureMoonwalk", "Swept", "layer_rule"]
