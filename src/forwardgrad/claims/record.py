"""What a claim's experiment left: typed, one JSON document a claim and tier."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forwardgrad.claims.claim import Claim, Tier
from forwardgrad.claims.fingerprint import fingerprint
from forwardgrad.errors import CheckpointError
from forwardgrad.train.record import versions


class SeedRecord(BaseModel):
    """What one seed found.

    Args:
        figures: by name.
        series: by name, what the picture draws.
        seconds: that it took, by the clock on the wall; None in records from before this was kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    figures: dict[str, float]
    series: dict[str, list[float]] = {}
    seconds: float | None = None


class ClaimRecord(BaseModel):
    """One claim at one tier.

    Args:
        claim: its id.
        tier: quick, record or gpu.
        setting: what the experiment was run with.
        runs: by seed, what it found.
        fingerprint: of the code that ran.
        created: when it was begun, in UTC.
        versions: of Python, the platform and the packages that decide a result.
        format: of this document.
    """

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")
    claim: str
    tier: Tier
    setting: dict[str, Any]
    runs: dict[int, SeedRecord] = {}
    fingerprint: str
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = Field(default_factory=versions)
    format: Literal["forwardgrad.claim/1"] = "forwardgrad.claim/1"

    def figures(self) -> dict[str, list[float]]:
        """By name, one value per seed."""
        names = dict.fromkeys(name for run in self.runs.values() for name in run.figures)
        return {name: [run.figures[name] for run in self.runs.values() if name in run.figures] for name in names}

    def series(self, name: str) -> list[list[float]]:
        """One list per seed.

        Args:
            name: as the experiment called it.
        """
        return [run.series[name] for run in self.runs.values()]

    def headline(self, claim: Claim) -> str:
        """Our figure, in words: means over seeds.

        Args:
            claim: the one that this is the record of.
        """
        return claim.headline.format(**{name: fmean(values) for name, values in self.figures().items()})

    def seconds(self) -> float | None:
        """What all seeds took together, None where it was not kept."""
        kept = [run.seconds for run in self.runs.values() if run.seconds is not None]
        return sum(kept) if len(kept) == len(self.runs) else None

    def stale(self, claim: Claim) -> bool:
        """Whether the code has changed since, or seeds are missing.

        Args:
            claim: the one that this is the record of.
        """
        return self.fingerprint != fingerprint(claim) or set(claim.seeds_of(self.tier)) - set(self.runs) != set()


def file_name(claim: str, tier: Tier) -> str:
    """Of a record inside its folder."""
    return f"{claim}.{tier}.json"


def read_record(path: Path) -> ClaimRecord:
    """The record in a file.

    Raises:
        CheckpointError: there is none, or it is something else.
    """
    needs = "the ledger needs records that `forwardgrad claims run` wrote"
    try:
        return ClaimRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        cure = "run the claim, or name the folder with --records"
        raise CheckpointError(needs, error.strerror or str(error), cure, path=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        found = f"something else ({'.'.join(map(str, first['loc']))}: {first['msg']})"
        raise CheckpointError(needs, found, "remove it and run the claim again", path=str(path)) from error


def standing(claim: Claim, folder: Path) -> ClaimRecord | None:
    """The record that speaks for a claim: of the gpu tier, else the record tier, else the quick one.

    A tier that is stale is passed over where another is not.

    Args:
        claim: from the ledger.
        folder: of the records.

    Raises:
        CheckpointError: a record cannot be read.
    """
    tiers: tuple[Tier, ...] = ("gpu", "record", "quick")
    paths = [folder / file_name(claim.id, tier) for tier in tiers]
    found = [read_record(path) for path in paths if path.exists()]
    return min(found, key=lambda record: record.stale(claim), default=None)
