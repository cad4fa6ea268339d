"""Methods: one file each, all of the type `Method`."""

from __future__ import annotations

from forwardgrad.methods.backprop import Backprop
from forwardgrad.methods.checkpointed import CheckpointedBackprop
from forwardgrad.methods.control import ControlVariate
from forwardgrad.methods.feedback import DFA, FDFA, ActivityPerturbed, DirectKolenPollack
from forwardgrad.methods.forward import ForwardGradient
from forwardgrad.methods.hypergradient import Neumann, TruncatedUnroll
from forwardgrad.methods.spsa import SPSA
from forwardgrad.methods.two_phase import TwoPhase

__all__ = [
    "DFA", "FDFA", "SPSA", "ActivityPerturbed", "Backprop", "CheckpointedBackprop", "ControlVariate",
    "DirectKolenPollack", "ForwardGradient", "Neumann", "TruncatedUnroll", "TwoPhase",
]  # fmt: skip
