"""The ledger: what headline papers claim, the experiment that tests it here, and a verdict computed from its figures.

A claim is one file in `entries/`, which ends in `CLAIM = Claim(...)`; nothing else needs to know of it.
"""

from __future__ import annotations

from forwardgrad.claims.claim import Check, Claim, Finding, Tell, Verdict
from forwardgrad.claims.ledger import ledger, named
from forwardgrad.claims.record import ClaimRecord, read_record, standing
from forwardgrad.claims.run import run

__all__ = [
    "Check",
    "Claim",
    "ClaimRecord",
    "Finding",
    "Tell",
    "Verdict",
    "ledger",
    "named",
    "read_record",
    "run",
    "standing",
]
