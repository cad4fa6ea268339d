"""Every operation of a step is one on integers, and a trace that says so would see a single one that is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import skip_init

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.claims.entries import fixedpoint_adapts
from forwardgrad.fixedpoint.arithmetic import Saturation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """A convolutional net, and tangents of a step."""

    batch: int = 32
    pixels: int = 16
    num_tangents: int = 4


class Tainted(fg.IntegerCrossEntropy):
    """A loss whose logits go through one operation that should not be there."""

    def __init__(self, classes: int, taint: Callable[[Tensor], Tensor]) -> None:
        super().__init__(classes)
        self.taint = taint

    def __call__(self, logits: Tensor, exponent: int, labels: Tensor, saturation: Saturation) -> Tensor:
        return super().__call__(self.taint(logits), exponent, labels, saturation)


TAINTS: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda z: (z * 1.0).int(),
    "quotient": lambda z: (z / 1).int(),
    "copy": lambda z: z.double().int(),
    "half": lambda z: z.bfloat16().int(),
    "bound": lambda z: z.clamp(-(2.0**30), 2.0**30).int(),
}


TYPES = ("bool", "int8", "int16", "int32", "int64", "floating")


def given(trace: fg.DtypeTrace, name: str) -> int:
    """How many operations gave numbers of a type, the first one where they gave several."""
    if name == "floating":
        return sum(trace.floating.values())
    return sum(count for op, count in trace.operations.items() if next(iter(op.outputs), "") == name)


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """The types of every operation of a step, forward passes, votes and update; and of steps with one that is wrong."""
    generator = Generator().manual_seed(seed)
    features = 8 * (setting.pixels // 4) ** 2
    conv, linear = skip_init(nn.Conv2d, 1, 8, 3, stride=2, padding=1), skip_init(nn.Linear, features, 10)
    for p in (*conv.parameters(), *linear.parameters()):
        nn.init.normal_(p, std=0.1, generator=generator)
    model = nn.Sequential(conv, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), linear)
    x = torch.randn(setting.batch, 1, setting.pixels, setting.pixels, generator=generator)
    y = torch.randint(10, (setting.batch,), generator=generator)
    steps = {"16": _traced(setting, model, x, y, 16), "8": _traced(setting, model, x, y, 8)}
    figures = {"operations": 0.0, "floating": 0.0, "reads": 0.0, "wide": 0.0}
    for bits, trace in steps.items():
        figures["operations"] += sum(trace.operations.values())
        figures["floating"] += sum(trace.floating.values())
        figures["reads"] += trace.reads
        products = [op for op in trace.operations if op.name.startswith(("aten.mm", "aten.bmm", "aten.addmm"))]
        figures["wide"] += sum({*op.inputs, *op.outputs} != {"int32"} for op in products)
        tell(f"{bits}-bit weights: {len(trace.operations)} kinds of operations, {len(trace.floating)} floating")
    traces = {name: _traced(setting, model, x, y, 16, Tainted(10, taint)) for name, taint in TAINTS.items()}
    figures["tainted"] = len(traces)
    figures["missed"] = sum(not trace.floating for trace in traces.values())
    series = {name: [float(given(trace, name)) for trace in steps.values()] for name in TYPES}
    series["tainted"] = [float(sum(trace.floating.values())) for trace in traces.values()]
    return Finding(figures, series)


def _traced(
    setting: Setting, model: nn.Sequential, x: Tensor, y: Tensor, bits: int, loss: fg.IntegerCrossEntropy | None = None
) -> fg.DtypeTrace:
    net = fg.quantise(model, x, weight_bits=bits)
    objective = fg.FixedPointObjective(net, loss or fg.IntegerCrossEntropy(10), net.encode(x), y)
    method = fg.SignSPSA(min(net.exponents.values()), setting.num_tangents)
    with fg.DtypeTrace() as trace:
        net.descend(method(objective, objective.params, key=fg.Key(0)), 9)
    return trace


def draw(record: ClaimRecord) -> Figure:
    """Operations of a step by the type that they give, and what the trace saw of steps that were tampered with.

    Args:
        record: of this claim.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for place, name in enumerate(TYPES):
        for half, (bits, colour) in enumerate((("16-bit weights", "#0072B2"), ("8-bit weights", "#56B4E9"))):
            count, y = record.series(name)[0][half], place + 0.36 * half
            left.barh(y, count, height=0.34, color=colour, label=bits if place == 0 else None)
            left.annotate(f"{count:.0f}", (count, y), xytext=(3, 0), textcoords="offset points", va="center", size=8)
    left.set_yticks([place + 0.18 for place in range(len(TYPES))], TYPES)
    left.set(title="Operations of a step, by what they give")
    left.margins(x=0.15)
    left.legend(frameon=False, loc="upper right")
    right.barh(range(len(TAINTS)), record.series("tainted")[0], height=0.6, color="#D55E00")
    right.set_yticks(range(len(TAINTS)), TAINTS)
    right.set(title="Floating, if tainted")
    for axes in (left, right):
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
    return figure


CLAIM = Claim(
    id="fixedpoint-integers",
    paper="2411.04036",
    sentence="A step needs fixed-point arithmetic alone: no operation in it takes or gives a floating-point number.",
    published="",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(batch=256, pixels=32, num_tangents=64)},
    checks=(
        Check("floating", at_most=0),
        Check("reads", at_most=0),  # nothing leaves PyTorch to be computed where the trace does not look
        Check("wide", at_most=0),
        Check("missed", at_most=0),
    ),
    headline="{operations:.0f} operations in a step with 16-bit and one with 8-bit weights, {floating:.0f} with a "
    "floating-point number in or out, {reads:.0f} reads, all matrix products in int32; of {tainted:.0f} steps with one "
    "such operation {missed:.0f} were missed",
    depends=("forwardgrad.fixedpoint.trace", *fixedpoint_adapts.CLAIM.depends),
    draw=draw,
)
