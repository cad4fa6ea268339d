"""Layers that libraries write out operation by operation, pushed as a whole."""

from __future__ import annotations

from forwardgrad.forward_ad.whole import activations, lora, rms_norm  # noqa: F401 fill the table
from forwardgrad.forward_ad.whole.taking import Taken, taking, wholes

__all__ = ["Taken", "taking", "wholes"]
