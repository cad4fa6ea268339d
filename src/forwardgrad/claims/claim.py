"""`Claim`: one sentence of a paper, and everything needed to test it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from forwardgrad.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord

Tier = Literal["quick", "record", "gpu"]
Tell = Callable[[str], None]  # hears, in a few words, how far an experiment is


class Verdict(StrEnum):
    """What the figures say of a claim."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    REFUTED = "refuted"
    OUT_OF_REACH = "out of reach"


@dataclass(frozen=True)
class Finding:
    """What one seed of an experiment found.

    Args:
        figures: by name, the numbers that checks and the headline speak of.
        series: by name, the lists that the picture draws.
    """

    figures: Mapping[str, float]
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """What a figure must be for its part of the claim to hold, for every seed.

    Args:
        figure: its name.
        at_least: lower bound, itself allowed.
        at_most: upper bound, itself allowed.
    """

    figure: str
    at_least: float = -math.inf
    at_most: float = math.inf

    def __post_init__(self) -> None:
        if math.isinf(self.at_least) and math.isinf(self.at_most):
            raise InputError("a check needs a bound", "none", "give at_least or at_most", path=self.figure)

    def holds(self, values: Sequence[float]) -> bool:
        """Whether every value lies within the bounds; NaN never does.

        Args:
            values: one per seed, at least one.
        """
        return bool(values) and all(self.at_least <= value <= self.at_most for value in values)

    def __str__(self) -> str:
        low = "" if math.isinf(self.at_least) else f"{self.at_least:g} <= "
        high = "" if math.isinf(self.at_most) else f" <= {self.at_most:g}"
        return f"{low}{self.figure}{high}"


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper, the experiment that tests it, and the bounds that decide.

    Args:
        id: short, in kebab case; the name of its record.
        paper: arXiv number, or authors and year.
        sentence: what is claimed, in one sentence.
        published: the published figure, as it stands in the paper or in its code's documentation; empty where there
            is none.
        experiment: `experiment(setting, seed, tell)` returns what it found. It draws from `seed` alone.
        settings: by tier, what the experiment is run with, a frozen dataclass of plain values. Every claim has a
            quick one, of at most a minute on two cores.
        checks: the verdict is *reproduced* where all hold, *refuted* where none does, *partly* in between.
        headline: our figure, a format string over the means of the figures over seeds: "{error:.1%} of ...".
        seeds: by tier; one, the number 0, where a tier is not named.
        depends: modules whose code decides the figures; the record is stale once one of them changes in more than
            comments and docstrings.
        beyond: why the claim itself is out of reach on the machines at hand; the experiment is then its miniature, and
            the tier gpu, where there is one, as much of it as one large card can do.
        draw: draws the record's picture for the page of claims, which sets the look. It lies in the claim's own file
            under this name, so that the record outlives a change of it; None only while there is none yet.
        packages: what the experiment imports beyond the library's own needs, by name, the extra that installs it. Where
            one is missing the claim is skipped.
    """

    id: str
    paper: str
    sentence: str
    published: str
    experiment: Callable[[Any, int, Tell], Finding]
    settings: Mapping[Tier, Any]
    checks: tuple[Check, ...]
    headline: str
    seeds: Mapping[Tier, tuple[int, ...]] = field(default_factory=dict)
    depends: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    beyond: str = ""
    draw: Callable[[ClaimRecord], Figure] | None = None

    def __post_init__(self) -> None:
        if "quick" not in self.settings or not self.checks:
            found = f"tiers {', '.join(self.settings) or 'none'} and {len(self.checks)} checks"
            raise InputError("a claim needs a quick tier and a check", found, "add what is missing", path=self.id)

    def verdict(self, figures: Mapping[str, Sequence[float]]) -> Verdict:
        """What the figures say; never typed in.

        Args:
            figures: by name, one value per seed.
        """
        held = [check.holds(figures.get(check.figure, ())) for check in self.checks]
        if self.beyond:
            return Verdict.OUT_OF_REACH
        if all(held):
            return Verdict.REPRODUCED
        return Verdict.PARTLY if any(held) else Verdict.REFUTED

    def seeds_of(self, tier: Tier) -> tuple[int, ...]:
        """The seeds that a tier runs."""
        return self.seeds.get(tier, (0,))
