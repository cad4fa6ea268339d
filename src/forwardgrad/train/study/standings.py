"""The rows of a comparison, computed from its record: figures with spread, differences to backprop, what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from forwardgrad.train.record import Entry, Failure, Point, Record, Run
from forwardgrad.train.study.rates import at_edge, best_of
from forwardgrad.train.summary import Spread, Summary, summarise

WITHIN_ACCURACY, WITHIN_LOSS = 0.02, 0.1


@dataclass(frozen=True)
class Multiple:
    """How many times backprop's forward passes it takes to come near backprop's figure.

    Args:
        times: mean over seeds.
        reached: whether every seed came near; where not, `times` is a lower bound, with the whole budget in place of
            what would have been needed.
    """

    times: float
    reached: bool


@dataclass(frozen=True)
class Standing:
    """A method's row.

    Args:
        label: the method.
        summary: its figures and what a run took; None for a method that has none.
        difference: of the figure on the test part to backprop's with the same seed; None where either is missing.
        multiple: of backprop's forward passes needed to come near it; None where backprop has no figure.
        lr: learning rate of the runs; None where there are none.
        trials: learning rates tried for it.
        edge: "low" or "high" where the best rate is the outermost one tried.
        batch_size: samples of a step; None for a task without samples.
        failure: why there is no figure.
    """

    label: str
    summary: Summary | None
    difference: Spread | None
    multiple: Multiple | None
    lr: float | None
    trials: int
    edge: str | None
    batch_size: int | None
    failure: Failure | None


def standings(record: Record) -> list[Standing]:
    """One row for every method, the failed ones too, in order.

    Args:
        record: of a comparison, finished or not.
    """
    within = (record.study or {}).get("within")
    exact = next((entry for entry in record.entries if entry.config["method"]["name"] == "backprop"), None)
    summaries = {row.label: row for row in summarise(record.entries)}
    rows = []
    for entry in record.entries:
        pairs = paired(entry, exact) if exact is not None and entry.label in summaries else []
        rows.append(
            Standing(
                label=entry.label,
                summary=summaries.get(entry.label),
                difference=Spread.over([_figure(a) - _figure(b) for a, b in pairs]) if pairs else None,
                multiple=multiple(pairs, within) if pairs else None,
                lr=entry.config["lr"] if entry.label in summaries else None,
                trials=len(entry.trials),
                edge=at_edge(entry.trials) if best_of(entry.trials) else None,
                batch_size=entry.config["task"].get("batch_size"),
                failure=entry.failure,
            )
        )
    return rows


def paired(entry: Entry, other: Entry) -> list[tuple[Run, Run]]:
    """The runs of two methods that share a seed; none where the other has failed."""
    theirs = {run.seed: run for run in other.runs} if other.failure is None else {}
    return [(run, theirs[run.seed]) for run in entry.runs if run.seed in theirs]


def multiple(pairs: Sequence[tuple[Run, Run]], within: float | None) -> Multiple:
    """Forward passes until a method's validation figure is near the best of backprop's, over those backprop needs.

    Args:
        pairs: runs of the method and of backprop with the same seed, at least one pair.
        within: how near; `WITHIN_ACCURACY` or `WITHIN_LOSS` where None.
    """
    times, reached = [], True
    for ours, theirs in pairs:
        has_accuracy = theirs.curve[0].validation_accuracy is not None
        near = within if within is not None else (WITHIN_ACCURACY if has_accuracy else WITHIN_LOSS)
        target = max(map(_merit, theirs.curve)) - near
        needed, base = forwards_to(ours.curve, target), forwards_to(theirs.curve, target)
        reached = reached and needed is not None
        spent = ours.curve[-1].forwards if needed is None else needed
        if base:
            times.append(spent / base)
    return Multiple(fmean(times) if times else 1.0, reached)


def forwards_to(curve: Sequence[Point], target: float) -> float | None:
    """Forward passes after which the validation figure first meets a target, straight lines between points.

    Args:
        curve: of a run.
        target: the greater the better: accuracy, or minus the loss.

    Returns:
        None where no point meets it.
    """
    if _merit(curve[0]) >= target:
        return curve[0].forwards
    for before, after in pairwise(curve):
        if _merit(after) >= target:
            share = (target - _merit(before)) / (_merit(after) - _merit(before))
            return before.forwards + share * (after.forwards - before.forwards)
    return None


def _merit(point: Point) -> float:
    return -point.validation_loss if point.validation_accuracy is None else point.validation_accuracy


def _figure(run: Run) -> float:
    return run.test_loss if run.test_accuracy is None else run.test_accuracy
