"""Directions split over processes: each sends its slopes and nothing else, and the estimate has the same bits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.claims.entries.fg2u_variance import problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """K directions over so many processes, for so many outer steps of gradient descent."""

    num_tangents: int = 8
    processes: int = 2
    outer: int = 5
    rate: float = 0.01


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Hyperparameters after some steps, on every process and on one alone, compared bit by bit."""
    share = -(-setting.num_tangents // setting.processes)
    alone = descended(setting, seed, fg.Jvp(chunk_size=share))
    with tempfile.TemporaryDirectory() as folder:
        tell(f"{setting.processes} processes")
        mp.spawn(_rank, args=(setting, seed, folder), nprocs=setting.processes)
        split = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(setting.processes)]
    differing = sum(int((theirs[name] != alone[name]).sum()) for theirs, _ in split for name in alone)
    moved = sum(float((alone[name] - start).abs().sum()) for name, start in problem(20, seed)[1].items())
    sent = max(counted for _, counted in split) / setting.outer
    hyper = sum(value.numel() * value.element_size() for value in alone.values())
    return Finding({"differing": differing, "moved": moved, "sent": sent, "hyper_bytes": hyper})


def descended(setting: Setting, seed: int, slope: fg.Jvp | fg.SplitDirections) -> dict[str, Tensor]:
    """The hyperparameters after the outer steps."""
    unroll, hyper = problem(20, seed)
    method = fg.ForwardGradient(setting.num_tangents, "rademacher", slope=slope)
    for step in range(setting.outer):
        grad = method(unroll, hyper, key=fg.Key(seed, step)).grad
        hyper = {name: value - setting.rate * grad[name] for name, value in hyper.items()}
    return hyper


def _rank(rank: int, setting: Setting, seed: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=setting.processes)
    sent: list[int] = []
    places = {"all_gather": 1, "all_reduce": 0, "broadcast": 0}  # of what this process hands over
    counting: dict[str, Any] = {name: _counted(getattr(dist, name), place, sent) for name, place in places.items()}
    with mock.patch.multiple(dist, **counting):
        hyper = descended(setting, seed, fg.SplitDirections())
    torch.save((hyper, sum(sent)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _counted(collective: Callable[..., Any], place: int, sent: list[int]) -> Callable[..., Any]:
    """The collective, which notes the bytes of its argument at that place."""

    def counted(*args: Any, **kwargs: Any) -> Any:
        sent.append(args[place].nbytes)
        return collective(*args, **kwargs)

    return counted


def draw(record: ClaimRecord) -> Figure:
    """What a process sends a step, beside a hypergradient."""
    import matplotlib.pyplot as plt

    figures = {name: sum(values) / len(values) for name, values in record.figures().items()}
    rows = {"slopes, and a check": (figures["sent"], "#0072B2"), "a hypergradient": (figures["hyper_bytes"], "#b5b5b5")}
    figure, axes = plt.subplots(figsize=(7.2, 2.1))
    for place, (count, colour) in enumerate(rows.values()):
        axes.barh(-place, count, height=0.55, color=colour)
        axes.annotate(f"{count:,.0f}", (count, -place), (6, 0), textcoords="offset points", va="center")
    axes.set_yticks([0, -1], list(rows))
    axes.grid(visible=False)
    axes.set(title="Bytes that a process sends a step", xlim=(0, 1.15 * figures["hyper_bytes"]))
    k, processes = record.setting["num_tangents"], record.setting["processes"]
    differing = f"{figures['differing']:.0f} hyperparameters differ in any bit"
    axes.set_xlabel(f"K = {k} directions over {processes} processes; {differing}", loc="left")
    return figure


CLAIM = Claim(
    id="fg2u-split",
    paper="2406.14095",
    sentence="Directions are shared out over processes that exchange scalars only.",
    published="",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(64, 4, 20)},
    checks=(Check("differing", at_most=0), Check("moved", at_least=1e-3)),
    headline="{differing:.0f} hyperparameters differ from one process's in any bit; a process hands "
    "over {sent:.0f} bytes a step, slopes and a check that all drew alike, where a hypergradient has {hyper_bytes:.0f}",
    depends=(
        "forwardgrad.bilevel.unroll",
        "forwardgrad.claims.entries.fg2u_variance",
        "forwardgrad.distributed.directions",
        "forwardgrad.methods.forward",
    ),
    draw=draw,
)
