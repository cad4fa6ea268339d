"""What a method may spend: forward passes counted by FLOPs, bytes alive at once, bytes offered to the tape."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from forwardgrad.estimate import Collect, Method, backward
from forwardgrad.flops import count_flops
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.module import ModuleObjective
from forwardgrad.probes import tape_bytes
from forwardgrad.tangents import Key


def check_cost(
    method: Method,
    model: nn.Module,
    loss_fn: Callable[..., Any],
    *batch: Any,
    passes: tuple[float, float],
    key: Key = Key(0),
) -> None:
    """One step costs as many forward passes as it is said to, counted in floating-point operations.

    Args:
        method: the method.
        model: as for `fg.backward`.
        loss_fn: as for `fg.backward`.
        batch: as for `fg.backward`.
        passes: the least and the most; the least keeps the claim honest in both directions.
        key: the draw.

    Raises:
        AssertionError: with the number of passes seen.
    """
    objective = ModuleObjective(model, loss_fn, *batch)
    with torch.no_grad(), objective.replaying():
        one = count_flops(lambda: objective(objective.params))
    ours = copy.deepcopy(method)
    seen = count_flops(lambda: backward(ours, model, loss_fn, *batch, into=Collect(), key=key)).over(one)
    least, most = passes
    assert least <= seen <= most, f"{method!r} costs {seen:.2f} forward passes, expected {least:.2f} to {most:.2f}"


def check_memory(
    method: Method,
    model: nn.Module,
    loss_fn: Callable[..., Any],
    *batch: Any,
    peak: tuple[float, float],
    key: Key = Key(0),
) -> None:
    """The most bytes alive at once, above the weights, are as many times those of one forward pass as is said.

    Args:
        method: the method.
        model: as for `fg.backward`; deep, so that what grows with depth shows.
        loss_fn: as for `fg.backward`.
        batch: as for `fg.backward`; large, so that activations outweigh the draw.
        peak: the least and the most.
        key: the draw.

    Raises:
        AssertionError: with the ratio seen.
    """
    objective = ModuleObjective(model, loss_fn, *batch)
    with torch.no_grad(), objective.replaying(), PeakBytes() as forward:
        objective(objective.params)
    ours = copy.deepcopy(method)
    with PeakBytes() as memory:
        backward(ours, model, loss_fn, *batch, into=Collect(), key=key)
    least, most = peak
    seen = memory.peak / forward.peak
    assert least <= seen <= most, (
        f"{method!r} holds {seen:.2f} times the bytes of a forward pass, expected {least:.2f} to {most:.2f}"
    )


def check_tape(
    method: Method,
    model: nn.Module,
    loss_fn: Callable[..., Any],
    *batch: Any,
    at_most: float = 0,
    at_least: float = 0,
    key: Key = Key(0),
) -> None:
    """One step offers autograd's tape no more bytes than it is said to: none, for a method that only goes forward.

    Args:
        method: the method.
        model: as for `fg.backward`; its weights and buffers do not count.
        loss_fn: as for `fg.backward`.
        batch: as for `fg.backward`.
        at_most: bytes.
        at_least: bytes; for methods that do use a tape.
        key: the draw.

    Raises:
        AssertionError: with the bytes seen.
    """
    ours = copy.deepcopy(method)
    with tape_bytes(model) as offered:
        backward(ours, model, loss_fn, *batch, into=Collect(), key=key)
    seen = offered()
    assert at_least <= seen <= at_most, (
        f"{method!r} offers {seen} bytes to the tape, expected {at_least:.0f} to {at_most:.0f}"
    )
