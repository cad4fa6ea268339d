"""One row per method out of its runs: what tables and pictures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from forwardgrad.train.record import Entry

# Greys for exact methods; for estimates Okabe and Ito's colours, told apart with any kind of colour vision.
PALETTE = ("#2b2b2b", "#8a8a8a", "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7", "#D55E00")
_GREYS, _EXACT = 2, {"backprop", "checkpointed"}
_DASHES = ("-", "--", ":")


def styles(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """A colour and a line style ("-", "--" or ":") for every row, no two alike before they run out.

    Args:
        configs: of the rows, as plain values; their methods decide between greys and colours.
    """
    found: list[tuple[str, str]] = []
    for config in configs:
        exact = config["method"]["name"] in _EXACT
        colours = PALETTE[:_GREYS] if exact else PALETTE[_GREYS:]
        free = [(colour, dashes) for dashes in _DASHES for colour in colours if (colour, dashes) not in found]
        if exact:  # a third one is the second one's relative: another form of checkpointing
            free.sort(key=lambda one: (one[0] == PALETTE[0] and one[1] != "-", _DASHES.index(one[1])))
        found.append(free[0] if free else (colours[-1], _DASHES[-1]))
    return found


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; a single seed has none."""

    mean: float
    deviation: float | None

    @classmethod
    def over(cls, values: list[float]) -> Spread:
        """The spread of some values, at least one."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)

    @property
    def percent(self) -> str:
        """The spread of a share, in per cent."""
        spread = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{spread} %"

    @property
    def plain(self) -> str:
        """The spread of any number, to four digits."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.2g}"
        return f"{self.mean:.4g}{spread}"


@dataclass(frozen=True)
class Summary:
    """A method's row.

    Args:
        label: the method.
        colour: its colour in tables and pictures.
        dashes: its line style in pictures.
        seeds: how many runs.
        accuracy: on the test part, of the weights selected on the validation part; None where there is none.
        loss: of the same weights on the same part.
        forwards_per_step: counted by FLOPs.
        steps: optimizer steps of a run.
        forwards: forward passes of a run.
        seconds: wall time of a run's steps.
        peak_bytes: highest bytes alive during a step, over weights and batch.
        tape_bytes: bytes a step offers to autograd's tape.
    """

    label: str
    colour: str
    dashes: str
    seeds: int
    accuracy: Spread | None
    loss: Spread
    forwards_per_step: float
    steps: int
    forwards: float
    seconds: float
    peak_bytes: int
    tape_bytes: int

    @property
    def result(self) -> str:
        """The figure that methods are compared by: accuracy, or loss where there is none."""
        return self.loss.plain if self.accuracy is None else self.accuracy.percent

    @property
    def merit(self) -> float:
        """The same as a number, the greater the better."""
        return -self.loss.mean if self.accuracy is None else self.accuracy.mean


def summarise(entries: list[Entry]) -> list[Summary]:
    """A row for every entry that has finished at least one run and has not failed, in order."""
    rows = []
    able = [entry for entry in entries if entry.failure is None]
    for entry, (colour, dashes) in zip(able, styles([entry.config for entry in able]), strict=True):
        if not entry.runs:
            continue
        accuracies = [run.test_accuracy for run in entry.runs if run.test_accuracy is not None]
        first, last = entry.runs[0], [run.curve[-1] for run in entry.runs]
        rows.append(
            Summary(
                label=entry.label,
                colour=colour,
                dashes=dashes,
                seeds=len(entry.runs),
                accuracy=Spread.over(accuracies) if accuracies else None,
                loss=Spread.over([run.test_loss for run in entry.runs]),
                forwards_per_step=first.cost.forward_passes,
                steps=last[0].step,
                forwards=last[0].forwards,
                seconds=fmean([point.seconds for point in last]),
                peak_bytes=first.cost.peak_bytes,
                tape_bytes=first.cost.tape_bytes,
            )
        )
    return rows
