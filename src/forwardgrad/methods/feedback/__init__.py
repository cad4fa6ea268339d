"""Methods that feed the error at the output straight back to every hidden activation: one file each."""

from __future__ import annotations

from forwardgrad.methods.feedback.activity import ActivityPerturbed
from forwardgrad.methods.feedback.dfa import DFA
from forwardgrad.methods.feedback.fdfa import FDFA
from forwardgrad.methods.feedback.kolen_pollack import DirectKolenPollack

__all__ = ["DFA", "FDFA", "ActivityPerturbed", "DirectKolenPollack"]
