"""With weights of 8 bits an update is smaller than a step of their grid: learning stands still."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.claims.entries import fixedpoint_adapts
from forwardgrad.claims.entries.fixedpoint_adapts import adapted, start

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """What `fixedpoint-adapts` is run with; `held` are exponents of rates at which 8-bit weights move to the end."""

    adapt: fixedpoint_adapts.Setting = field(default_factory=fixedpoint_adapts.Setting)
    held: tuple[int, ...] = (7, 8)


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Accuracy with 16 and with 8 bits at the same rates, and with 8 at rates that are a step of the grid."""
    adapt = setting.adapt
    begin = start(adapt, seed)
    ways = {"sixteen": (16, adapt.rates), "eight": (8, adapt.rates)}
    ways |= {f"held{rate}": (8, (rate,)) for rate in setting.held}
    runs = {name: adapted(adapt, seed, begin, bits, rates, tell) for name, (bits, rates) in ways.items()}
    figures = {name: run.curve[-1] for name, run in runs.items()} | {"start": runs["sixteen"].curve[0]}
    figures["behind"] = figures["sixteen"] - figures["eight"]
    figures["held"] = max(figures[f"held{rate}"] for rate in setting.held)
    figures["held_behind"] = figures["sixteen"] - figures["held"]
    figures |= {f"late_{name}": runs[name].late for name in ("sixteen", "eight")}
    passes = [2.0 * adapt.steps * i / 4 for i in range(5)]
    return Finding(figures, {"passes": passes} | {name: run.curve for name, run in runs.items()})


def draw(record: ClaimRecord) -> Figure:
    """Accuracy over forward passes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.6, 4.2))
    lines = {"sixteen": ("16-bit weights", "#0072B2"), "eight": ("8-bit weights, same rates", "#D55E00")}
    held = record.setting["held"]
    shades = ("#E69F00", "#CC79A7", "#56B4E9")
    lines |= {f"held{r}": (f"8-bit weights, rate 1/{2**r}", c) for r, c in zip(held, shades, strict=False)}
    for name, (label, colour) in lines.items():
        mean = 100 * torch.tensor(record.series(name)).mean(0)
        axes.plot(record.series("passes")[0], mean, color=colour, marker="o", ms=4, label=label)
    axes.set(title="Test accuracy in percent, three classes new")
    axes.set_xlabel("forward passes", loc="left")
    figure.legend(loc="outside right upper")
    return figure


CLAIM = Claim(
    id="fixedpoint-8bit-stalls",
    paper="2411.04036",
    sentence="Training by integer forward passes does not converge with weights of 8 bits, where it does with 16.",
    published="8-bit weights do not converge, 16 bits are needed",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(fixedpoint_adapts.CLAIM.settings["record"])},
    seeds={"record": (0, 1, 2)},
    checks=(
        Check("behind", at_least=0.03),  # the distance within which 16 bits count as having adapted
        Check("held_behind", at_least=0.03),
        Check("late_eight", at_most=0.01),
    ),
    headline="test accuracy from {start:.1%} to {sixteen:.1%} with 16-bit weights, {eight:.1%} with 8 at the same "
    "rates, {held:.1%} with 8 at the better of two rates that are a step of the grid; in the second half "
    "{late_eight:.1%} of the 8-bit weights still move, {late_sixteen:.0%} of the 16-bit ones",
    depends=("forwardgrad.claims.entries.fixedpoint_adapts", *fixedpoint_adapts.CLAIM.depends),
    draw=draw,
)
