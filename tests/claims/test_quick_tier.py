"""The quick tier, run: what holds and what does not is what the records in the repository say."""

from __future__ import annotations

from pathlib import Path

import pytest

from forwardgrad.claims import ledger, read_record, run
from forwardgrad.claims.record import file_name
from forwardgrad.claims.run import lacking
from forwardgrad.train.output import OutputFolder

RECORDS = Path(__file__).resolve().parents[2] / "bench" / "claims"
SECONDS = 60.0  # whose record says that it took at most so many is run each time; `make test-slow` runs the others
ON_THE_CLOCK = ("seconds", "time_")  # figures that a busy machine spoils: what is checked of them is left out


def _marked(claim):
    seconds = read_record(RECORDS / file_name(claim.id, "quick")).seconds()
    quick = seconds is not None and seconds <= SECONDS
    return pytest.param(claim, id=claim.id, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("claim", [_marked(claim) for claim in ledger()])
def test_the_quick_tier_finds_what_its_record_says(claim, tmp_path):
    if reason := lacking(claim):
        pytest.skip(reason)
    recorded = read_record(RECORDS / file_name(claim.id, "quick"))
    found = run(claim, "quick", OutputFolder(tmp_path).ready(), lambda text: None)
    assert _held(claim, found.figures()) == _held(claim, recorded.figures())


def _held(claim, figures):
    checks = [check for check in claim.checks if not check.figure.startswith(ON_THE_CLOCK)]
    return {str(check): check.holds(figures[check.figure]) for check in checks}
