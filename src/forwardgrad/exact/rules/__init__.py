"""One file a family of layers; importing them fills the table."""

from __future__ import annotations

from forwardgrad.exact.rules import activation, circular, conv, coupling, linear, shape

__all__ = ["activation", "circular", "conv", "coupling", "linear", "shape"]
