"""The quick tier, run: its verdicts are those of the records in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from forwardgrad.claims import ledger, read_record, run
from forwardgrad.claims.record import file_name
from forwardgrad.claims.run import lacking
from forwardgrad.train.output import OutputFolder

RECORDS = Path(__file__).resolve().parents[2] / "bench" / "claims"
SECONDS = 60.0  # whose record says that it took at most so many is run each time; `make test-slow` runs the others
TIMED = {"fg2u-burgers", "moonwalk-memory"}  # a check of theirs is on time, which a busy machine fails


def _marked(claim):
    seconds = read_record(RECORDS / file_name(claim.id, "quick")).seconds()
    quick = seconds is not None and seconds <= SECONDS
    return pytest.param(claim, id=claim.id, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("claim", [_marked(claim) for claim in ledger()])
def test_the_quick_tier_gives_the_verdict_of_its_record(claim, tmp_path):
    if reason := lacking(claim):
        pytest.skip(reason)
    recorded = read_record(RECORDS / file_name(claim.id, "quick"))
    found = run(claim, "quick", OutputFolder(tmp_path).ready(), lambda text: None)
    if claim.id not in TIMED:
        assert claim.verdict(found.figures()) == claim.verdict(recorded.figures())
