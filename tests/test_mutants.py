"""The suite rejects every mutant, and accepts the honest method it was made from."""

from __future__ import annotations

from dataclasses import replace

import pytest

import forwardgrad as fg
from forwardgrad.testing import MUTANTS, Mutant, check_rejected, theorems

THEOREMS = {
    "unbiased",
    "variance",
    "projection",
    "exact",
    "cost",
    "memory",
    "tape",
    "replay",
    "dtype",
    "state",
    "descent",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.row.name}: {mutant.theorem}")
def test_a_mutant_is_rejected(mutant):
    check_rejected(mutant)


def test_every_theorem_rejects_something():
    assert {mutant.theorem for mutant in MUTANTS} == THEOREMS


def test_the_honest_original_is_not_a_mutant():
    honest = replace(MUTANTS[0].row, name="honest", make=lambda: fg.ForwardGradient(512))
    for theorem in ("unbiased", "variance"):
        theorems(honest)[theorem]()
        with pytest.raises(AssertionError, match=f"`honest` passes the test named {theorem}"):
            check_rejected(Mutant(honest, theorem))
