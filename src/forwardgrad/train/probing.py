"""How far estimates are from the true gradient, on a fixed batch, without a trace left in the run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from forwardgrad.estimate import Collect, Method, backward
from forwardgrad.methods import Backprop
from forwardgrad.module.replay import Buffers, Randomness
from forwardgrad.tangents import Key
from forwardgrad.train.config import Probe
from forwardgrad.train.seeding import derived_seed, stream
from forwardgrad.train.tally import norm
from forwardgrad.train.tasks.task import Batch


@dataclass(frozen=True)
class Probed:
    """What a probe found, as means over its keys.

    Args:
        cosine: of estimate and gradient; None where either is zero.
        error: |estimate - gradient|^2 / |gradient|^2; None where the gradient is zero.
    """

    cosine: float | None
    error: float | None


def probe_batch(probe: Probe, part: Batch, seed: int) -> Batch:
    """The samples that a run is probed on.

    Args:
        probe: says how many; of a smaller part all.
        part: of the data.
        seed: of the run.
    """
    order = torch.randperm(len(part[0]), generator=stream(seed, "probe"))[: probe.samples]
    return tuple(tensor.index_select(0, order) for tensor in part)


def probe_now(
    probe: Probe, method: Method, model: nn.Module, loss: Callable[..., Any], batch: Batch, seed: int, step: int
) -> Probed:
    """Compares estimates with the gradient by autograd; weights, buffers, gradients, random states and what the method
    has learned stay as they are.

    Args:
        probe: says how many keys.
        method: as it stands in the run; a copy of it works.
        model: in the mode in which it trains.
        loss: `loss(model, *batch)`.
        batch: from `probe_batch`.
        seed: of the run,
        step: and its place: together they name the draws, none of which a step of the run makes.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    buffers, randomness = Buffers(list(model.modules())), Randomness(device)
    shared = {id(part): part for part in (*model.modules(), *model.parameters(), *model.buffers())}

    def gradient(one: Method, key: Key) -> dict[str, Tensor]:
        found = Collect()
        try:
            backward(copy.deepcopy(one, dict(shared)), model, loss, *batch, into=found, key=key)
        finally:  # every estimate meets the same dropout masks
            with torch.no_grad():
                buffers.restore()
            randomness.restore()
        return found.grads

    keys = [Key(derived_seed(seed, f"probe/{step}"), place) for place in range(probe.keys)]
    exact = {name: grad.double() for name, grad in gradient(Backprop(), keys[0]).items()}
    length = norm(exact)
    if length == 0:
        return Probed(None, None)
    found = [_compare(gradient(method, key), exact, length) for key in keys]
    cosines = [cosine for cosine, _ in found if cosine is not None]
    return Probed(fmean(cosines) if cosines else None, fmean(error for _, error in found))


def _compare(grad: Mapping[str, Tensor], exact: Mapping[str, Tensor], length: float) -> tuple[float | None, float]:
    inner, squares = 0.0, 0.0
    for name, one in grad.items():
        dense = one.to(torch.float64)
        squares += float(dense.square().sum())
        if name in exact:
            inner += float((dense * exact[name]).sum())
    error = (squares - 2 * inner + length**2) / length**2
    return (inner / (squares**0.5 * length) if squares else None), max(0.0, error)
