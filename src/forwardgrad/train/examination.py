"""What the doctor says of a model beside what stands in the way: what a step costs, and which method to take.

The advice is the first row of docs/how-to-choose.md that fits into the memory at hand, by measured peaks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch.optim import SGD

from forwardgrad.diagnosis import Report, doctor
from forwardgrad.errors import ForwardGradError
from forwardgrad.estimate import Apply, Method
from forwardgrad.measurement import Measurement, measure
from forwardgrad.methods import SPSA, Backprop, CheckpointedBackprop, ForwardGradient
from forwardgrad.tangents.key import Key
from forwardgrad.train.patient import Patient
from forwardgrad.train.report import kibibytes

_FUSED = "checkpointed, fused"
# In the order of the advice: the exact ones first, the cheapest first.
_METHODS: dict[str, Callable[[], Method]] = {
    "backprop": Backprop,
    "checkpointed": CheckpointedBackprop,
    _FUSED: partial(CheckpointedBackprop, fused=True),
    "forward K=1": partial(ForwardGradient, num_tangents=1, scale="mmse"),
    "forward K=8": partial(ForwardGradient, num_tangents=8, scale="mmse"),
    "SPSA": SPSA,
}


@dataclass(frozen=True)
class Examination:
    """What the doctor saw.

    Args:
        name: of the patient.
        parameters: how many are trained.
        weights_bytes: of parameters and buffers.
        report: what stands in the way of a push.
        costs: by method, those that could run.
        refused: by method, the sentence of those that could not.
    """

    name: str
    parameters: int
    weights_bytes: int
    report: Report
    costs: dict[str, Measurement]
    refused: dict[str, str]

    def advice(self, memory: int) -> str:
        """Which method to take where so much memory is at hand.

        Args:
            memory: bytes for weights, gradients, activations and batch.
        """
        for name, cost in self.costs.items():
            if self.weights_bytes + cost.peak_bytes <= memory:
                return f"Take {name}: {_REASONS.get(name, _NOISY)}"
        least = min(self.costs, key=lambda name: self.costs[name].peak_bytes, default="")
        if not least:
            return "No method can run; mend what is listed above."
        needed = self.weights_bytes + self.costs[least].peak_bytes
        return f"Nothing fits: {least} holds least and needs {kibibytes(needed)}; take a smaller batch or model."

    def to_json(self, memory: int) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "model": self.name,
            "parameters": self.parameters,
            "weights_bytes": self.weights_bytes,
            "works": bool(self.report),
            "checked_against": self.report.checked_against,
            "error": None if math.isnan(self.report.error) else self.report.error,
            "findings": [asdict(finding) for finding in self.report.findings],
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
            "refused": self.refused,
            "advice": self.advice(memory),
        }


_REASONS = {
    "backprop": "its gradient is exact and it fits; nothing here beats it.",
    "checkpointed": "backprop does not fit, and this has the same gradient for about one forward more.",
    _FUSED: "its gradient is exact, and no gradient outlives its layer.",
}
_NOISY = "no exact gradient fits; its gradient is unbiased, and its variance grows with the number of parameters."


def examine(one: Patient) -> Examination:
    """Looks for what stands in the way, and measures one step of every method; nothing of the model is changed.

    Args:
        one: the model, its loss and a typical batch.
    """
    report = doctor(one.model, one.loss_fn, *one.batch)
    costs: dict[str, Measurement] = {}
    refused: dict[str, str] = {}
    for name, make in _METHODS.items():
        # The step is fused into the pass here; its rate is nothing, but not zero, which an optimizer could skip.
        into = Apply(partial(SGD, lr=1e-30)) if name == _FUSED else None
        try:
            costs[name] = measure(make(), one.model, one.loss_fn, *one.batch, into=into, key=Key(0))
        except (ForwardGradError, NotImplementedError) as trouble:
            refused[name] = str(trouble)
    trained = sum(p.numel() for p in one.model.parameters() if p.requires_grad)
    held: list[torch.Tensor] = [*one.model.parameters(), *one.model.buffers()]
    return Examination(one.name, trained, sum(t.nbytes for t in held), report, costs, refused)


def total_memory(model: torch.nn.Module) -> int:
    """Bytes of the device that holds a model: of the GPU, or of this machine."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def costs_table(seen: Examination) -> Table:
    """One row a method: cost, time and memory of a step.

    Args:
        seen: from `examine`.
    """
    title = f"{seen.name}: {seen.parameters:,} trained parameters, {kibibytes(seen.weights_bytes)} of weights"
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title=title)
    table.title_justify = table.caption_justify = "left"
    table.caption = (
        "One step. Forwards: in forward passes of the same loss, counted by FLOPs. Peak and tape: bytes over weights "
        "and batch."
    )
    table.add_column("method")
    for heading in ("forwards", "time", "peak", "tape"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, cost in seen.costs.items():
        forwards, milliseconds = f"{cost.forward_passes:.2f}", f"{1000 * cost.seconds:,.1f} ms"
        table.add_row(name, forwards, milliseconds, kibibytes(cost.peak_bytes), kibibytes(cost.tape_bytes))
    for name in seen.refused:
        table.add_row(name, "cannot run", "", "", "")
    return table
