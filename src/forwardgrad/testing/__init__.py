"""The contract suite: what is claimed of a method, as named theorems that raise with a sentence and the numbers.

    fg.testing.check_contract(fg.testing.Contract("mine", MyMethod, mean=1.0, variance=53 / 8))

runs every theorem on small problems whose laws are known; the `check_` functions take any objective or model.
`CONTRACT` has a row for every method of this library, `MUTANTS` methods made wrong on purpose, each with the theorem
that must reject it.
"""

from __future__ import annotations

from forwardgrad.testing.adapted import adapted
from forwardgrad.testing.chains import coupled, patches, rings
from forwardgrad.testing.contract import Contract, check_contract, theorems
from forwardgrad.testing.cost import check_cost, check_memory, check_tape
from forwardgrad.testing.descent import check_descent
from forwardgrad.testing.dtype import check_device, check_dtype
from forwardgrad.testing.exact import check_exact
from forwardgrad.testing.mutants import MUTANTS, Mutant, check_rejected
from forwardgrad.testing.problems import BOWL, Problem, bowl, cross_entropy, net, tower
from forwardgrad.testing.replay import check_replay
from forwardgrad.testing.state import check_state
from forwardgrad.testing.table import CONTRACT
from forwardgrad.testing.unbiased import check_unbiased
from forwardgrad.testing.variance import check_projection, check_variance

__all__ = [
    "Contract", "check_contract", "theorems", "CONTRACT",
    "Mutant", "check_rejected", "MUTANTS",
    "check_unbiased", "check_variance", "check_projection", "check_exact", "check_descent",
    "check_cost", "check_memory", "check_tape", "check_replay", "check_dtype", "check_device", "check_state",
    "Problem", "BOWL", "bowl", "net", "tower", "rings", "patches", "coupled", "adapted", "cross_entropy",
]  # fmt: skip
