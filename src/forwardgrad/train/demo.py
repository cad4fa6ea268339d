"""The demo: scikit-learn's digits with and without backprop, at an equal number of forward passes."""

from __future__ import annotations

from typing import Any

from forwardgrad.train.comparison import Contender
from forwardgrad.train.config import build_config

FORWARDS = 6_000.0
SEEDS = (0, 1, 2)

# Learning rates, the task's own but for K = 16, were found by the same search for every row: see tasks/digits.py.
_ROWS: dict[str, dict[str, Any]] = {
    "backprop": {"method": {"name": "backprop"}},
    "checkpointed backprop": {"method": {"name": "checkpointed"}},
    "checkpointed, fused": {"method": {"name": "checkpointed", "fused": True}},
    "SPSA": {"method": {"name": "spsa"}},
    "forward gradient K=1": {"method": {"name": "forward", "num_tangents": 1}},
    "forward gradient K=16": {"method": {"name": "forward", "num_tangents": 16}, "lr": 10.0},
    "control variate K=16": {"method": {"name": "control", "num_tangents": 16}},
}


def contenders(forwards: float = FORWARDS, seeds: tuple[int, ...] = SEEDS) -> list[Contender]:
    """The demo's rows.

    Args:
        forwards: budget of each run, in forward passes counted by FLOPs.
        seeds: one run per method and seed.
    """
    shared = {"task": "digits", "forwards": forwards, "seeds": list(seeds)}
    return [Contender(label, build_config(shared | row)) for label, row in _ROWS.items()]
