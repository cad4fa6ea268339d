"""Integer nets that learn: 16-bit weights, 8-bit activations, and no floating-point operation in a step."""

from __future__ import annotations

from forwardgrad.fixedpoint.loss import IntegerCrossEntropy
from forwardgrad.fixedpoint.net import FixedPointNet, FixedPointObjective
from forwardgrad.fixedpoint.quantise import quantise
from forwardgrad.fixedpoint.sign_spsa import SignSPSA
from forwardgrad.fixedpoint.trace import DtypeTrace

__all__ = ["DtypeTrace", "FixedPointNet", "FixedPointObjective", "IntegerCrossEntropy", "SignSPSA", "quantise"]
