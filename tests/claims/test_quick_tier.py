"""The quick tier, run: its verdicts are those of the records in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from forwardgrad.claims import ledger, read_record, run
from forwardgrad.claims.record import file_name
from forwardgrad.claims.run import lacking
from forwardgrad.train.output import OutputFolder

RECORDS = Path(__file__).resolve().parents[2] / "bench" / "claims"
# Those that take seconds are run each time; all of them take a quarter of an hour (`make test-slow`).
SECONDS = {"fixedpoint-integers", "forward-gradient-unbiased", "fg2u-split", "multi-tangent-functions", "spry-wire"}
TIMED = {"fg2u-burgers", "moonwalk-memory"}  # a check of theirs is on time, which a busy machine fails


@pytest.mark.parametrize(
    "claim",
    [pytest.param(claim, id=claim.id, marks=() if claim.id in SECONDS else pytest.mark.slow) for claim in ledger()],
)
def test_the_quick_tier_gives_the_verdict_of_its_record(claim, tmp_path):
    if reason := lacking(claim):
        pytest.skip(reason)
    recorded = read_record(RECORDS / file_name(claim.id, "quick"))
    found = run(claim, "quick", OutputFolder(tmp_path).ready(), lambda text: None)
    if claim.id not in TIMED:
        assert claim.verdict(found.figures()) == claim.verdict(recorded.figures())
