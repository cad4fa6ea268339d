"""Peak memory over depth: flat for what only goes forward, growing for what keeps a tape.

Llama, d = 256, 16 x 128 tokens, a vocabulary of 512 so that the layers and not the logits set the peak. The
draw, the gradient and `p.grad` are counted; weights and batch are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import forwardgrad as fg
from bench import record
from bench.nets import Net, llama
from bench.speed import FORWARD, forward_of, peak_of
from forwardgrad.estimate import Apply

_MIB = 2**20


def _methods(net: Net) -> dict[str, Callable[[], object]]:
    def filled(method: object, **options: Any) -> Callable[[], object]:
        return lambda: fg.backward(method, net.model, net.loss_fn, *net.batch, key=fg.Key(0), **options)

    return {
        FORWARD: forward_of(net),
        "fg.ForwardGradient, K = 1": filled(fg.ForwardGradient()),
        "fg.ForwardGradient, K = 4": filled(fg.ForwardGradient(num_tangents=4)),
        "fg.SPSA": filled(fg.SPSA()),
        "backprop": filled(fg.Backprop()),
        "checkpointed backprop": filled(fg.CheckpointedBackprop()),
        "checkpointed, update fused": filled(
            fg.CheckpointedBackprop(fused=True), into=Apply(lambda p: torch.optim.SGD(p, lr=0.0))
        ),
    }


def _at(depth: int) -> dict[str, int]:
    """Peak bytes of each method at one depth."""
    net = llama(depth=depth, width=256, batch=16, vocabulary=512)
    peaks = {}
    for name, work in _methods(net).items():
        net.model.zero_grad(set_to_none=True)
        peaks[name] = peak_of(work)
    return peaks


def step_peak(depth: int = 6) -> dict[str, int]:
    """The peak of `fg.backward` and an SGD step on 8 tokens, beside the weights' sizes.

    Activations are tiny there: a tensor of the size of one weight's gradient would stand out.
    """
    net = llama(depth=depth, width=256, batch=1, tokens=8)
    optimizer = torch.optim.SGD(net.model.parameters(), lr=1e-6)
    method = fg.ForwardGradient()

    def step() -> None:
        fg.backward(method, net.model, net.loss_fn, *net.batch, key=fg.Key(0))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    sizes = [p.numel() * p.element_size() for p in net.model.parameters()]
    return {"peak": peak_of(step), "largest_weight": max(sizes), "gradient": sum(sizes)}


def memory_over_depth(console: Console, host: dict[str, Any], depths: list[int], save: bool) -> None:
    """Prints, compares with the last record, and writes a new one."""
    peaks = {depth: _at(depth) for depth in sorted(depths)}
    table = Table(title="peak MiB (and over one forward pass), by layers", title_justify="left")
    table.add_column("method")
    for depth in peaks:
        table.add_column(str(depth), justify="right")
    for name in next(iter(peaks.values())):
        cells = [f"{at[name] / _MIB:.1f} ({at[name] / at[FORWARD]:.2f})" for at in peaks.values()]
        table.add_row(name, *cells)
    console.print(table)
    step = step_peak()
    verdict = "no" if step["peak"] < step["largest_weight"] else "A"
    sizes = ", ".join(f"{name.replace('_', ' ')} {count / _MIB:.2f} MiB" for name, count in step.items())
    console.print(f"{verdict} gradient-sized tensor in backward + SGD step: {sizes}")
    figures = {f"{depth}/{name}": at[name] / at[FORWARD] for depth, at in peaks.items() for name in at}
    figures["step_over_largest_weight"] = step["peak"] / step["largest_weight"]
    config = {"depths": sorted(depths), "net": "llama, d=256, 16x128 tokens, vocabulary 512", "seed": 0}
    content = {"config": config, "peaks": peaks, "step": step, "figures": figures}
    record.conclude(console, "memory", host, content, save)
