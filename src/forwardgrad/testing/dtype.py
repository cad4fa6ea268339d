"""Precision and place: the same draw in another dtype or on another device gives the same estimate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from forwardgrad.estimate import Method
from forwardgrad.module import ModuleObjective
from forwardgrad.tangents import Key
from forwardgrad.testing.draws import flat

TOLERANCES: Mapping[torch.dtype, float] = {torch.float64: 1e-4, torch.bfloat16: 0.1}
"""Relative distance to the estimate in float32; an infinite one asks for finite numbers only."""


def check_dtype(
    method: Method,
    model: nn.Module,
    loss_fn: Callable[..., Any],
    *batch: Any,
    tolerances: Mapping[torch.dtype, float] = TOLERANCES,
    key: Key = Key(0),
) -> None:
    """In every dtype the gradient has the parameters' dtype, is finite, and is close to the one in float32.

    Args:
        method: the method.
        model: as for `fg.backward`, in any floating dtype; copied.
        loss_fn: as for `fg.backward`.
        batch: as for `fg.backward`; its floating tensors are cast.
        tolerances: dtype -> relative distance to the float32 estimate under the same key.
        key: the draw; the model must draw nothing itself.

    Raises:
        AssertionError: with the parameter or the distance.
    """
    reference = _estimate(method, model, loss_fn, batch, key, torch.float32, "cpu")
    for dtype, tolerance in tolerances.items():
        seen = _estimate(method, model, loss_fn, batch, key, dtype, "cpu")
        _close(method, seen, reference, tolerance, f"in {dtype}")


def check_device(
    method: Method,
    model: nn.Module,
    loss_fn: Callable[..., Any],
    *batch: Any,
    device: torch.device | str = "cuda",
    tolerance: float = 1e-4,
    key: Key = Key(0),
) -> None:
    """On another device the same key gives the same estimate up to rounding, in the model's dtype.

    Args:
        method: the method.
        model: as for `fg.backward`; copied.
        loss_fn: as for `fg.backward`.
        batch: as for `fg.backward`; copied.
        device: the other device.
        tolerance: relative.
        key: the draw; the model must draw nothing itself.

    Raises:
        AssertionError: with the parameter or the distance.
    """
    here = _estimate(method, model, loss_fn, batch, key, None, "cpu")
    there = _estimate(method, model, loss_fn, batch, key, None, device)
    _close(method, there, here, tolerance, f"on {device}")


def _estimate(
    method: Method,
    model: nn.Module,
    loss_fn: Callable[..., Any],
    batch: tuple[Any, ...],
    key: Key,
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> Tensor:
    """The estimate on a copy that was cast and moved, as one vector."""
    cast = lambda x: x.to(device, dtype) if x.is_floating_point() else x.to(device)
    moved = copy.deepcopy(model).to(device, dtype)
    objective = ModuleObjective(moved, loss_fn, *tree_map_only(Tensor, cast, batch))
    estimate = copy.deepcopy(method)(objective, objective.params, key=key)
    for name, g in estimate.grad.items():
        p = objective.params[name]
        assert g.dtype == p.dtype, f"{method!r} gives `{name}`, a parameter in {p.dtype}, a gradient in {g.dtype}"
        assert g.device == p.device, f"{method!r} gives `{name}`, on {p.device}, a gradient on {g.device}"
    return flat(estimate.grad, objective.params)


def _close(method: Method, seen: Tensor, reference: Tensor, tolerance: float, where: str) -> None:
    assert bool(seen.isfinite().all()), f"{method!r} {where} gives a gradient that is not finite"
    distance = float((seen - reference).norm() / reference.norm())
    assert distance <= tolerance, (
        f"{method!r} {where} is off by {distance:.2g} of its length, tolerance {tolerance:.2g}"
    )
