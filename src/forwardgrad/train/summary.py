"""One row per method out of its runs: what tables and pictures show."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev

from forwardgrad.train.record import Entry

# Greys, then Okabe and Ito's colours, told apart with any kind of colour vision. The demo's exact methods come first.
PALETTE = ("#2b2b2b", "#8a8a8a", "#8a8a8a", "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7", "#D55E00")
_DASHED = 2  # the place of the second grey: the fused form of the method before it


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
    for place, entry in enumerate(entries):
        if not entry.runs or entry.failure is not None:
            continue
        accuracies = [run.test_accuracy for run in entry.runs if run.test_accuracy is not None]
        first, last = entry.runs[0], [run.curve[-1] for run in entry.runs]
        rows.append(
            Summary(
                label=entry.label,
                colour=PALETTE[place % len(PALETTE)],
                dashes="--" if place == _DASHED else "-",
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
