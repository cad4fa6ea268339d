"""What is looked at before a model is run: wrappers, compiled code, dtypes, devices, NaN in the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from forwardgrad.errors import InputError, NonFiniteError, UnsupportedError


def unwrapped(model: nn.Module) -> tuple[nn.Module, Any]:
    """The model inside a DistributedDataParallel and its process group; (model, None) for any other."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.module, model.process_group
    return model, None


def admit_model(modules: Sequence[tuple[str, nn.Module]], params: Mapping[str, Tensor]) -> torch.device:
    """Checks a model's modules (path, module) and parameters, and gives the device they live on.

    Raises:
        UnsupportedError: compiled or scripted modules; wrappers that shard parameters (FSDP) or scatter batches.
        InputError: integer or complex parameters, parameters on several devices, or none at all.
    """
    for path, module in modules:
        kind = type(module).__name__
        if isinstance(module, nn.DataParallel) or "FullyShardedDataParallel" in kind or kind.startswith("FSDP"):
            raise UnsupportedError(
                "forward mode needs whole parameters on one device",
                f"a module wrapped in {kind}",
                "pass the unwrapped module, or DistributedDataParallel, whose slopes are averaged over the ranks",
                path=path or "model",
            )
        if kind == "OptimizedModule" or module._compiled_call_impl is not None:
            raise UnsupportedError(
                "a push needs Python code that it can follow",
                "a module already compiled by torch.compile",
                "pass the original module (`model._orig_mod`), without model.compile()",
                path=path or "model",
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedError(
                "a push needs Python code that it can follow",
                "a module scripted or traced by torch.jit",
                "pass the original module",
                path=path or "model",
            )
    if not params:
        raise InputError(
            "a gradient needs parameters",
            "none with requires_grad",
            "call requires_grad_(True) on those to train",
        )
    for name, p in params.items():
        if not p.dtype.is_floating_point:
            raise InputError(
                "parameters need a real floating point dtype",
                str(p.dtype),
                "freeze it, or split it into real parts",
                name,
            )
    devices: dict[torch.device, str] = {}
    for name, p in params.items():
        devices.setdefault(p.device, name)
    if len(devices) > 1:
        (one, first), (two, second) = list(devices.items())[:2]
        raise InputError(
            "a push needs all parameters on one device",
            f"`{first}` on {one} and `{second}` on {two}",
            "move the model to one device",
            path=second,
        )
    return next(iter(devices))


def admit_batch(batch: tuple[Any, ...], device: torch.device) -> None:
    """Checks every tensor of a batch (tensors, containers, dataclasses registered as containers).

    Raises:
        InputError: a tensor on another device than the model.
        NonFiniteError: NaN in a floating point tensor (infinities are let through: masks hold them).
    """
    for path, x in leaves(batch):
        if not isinstance(x, Tensor):
            continue
        if x.device != device and not (x.device.type == "cpu" and x.ndim == 0):
            raise InputError(
                f"the batch needs to be on the model's device {device}",
                f"a tensor on {x.device}",
                "move it",
                f"batch{path}",
            )
        if x.dtype.is_floating_point and holds_nan(x):
            raise NonFiniteError("a batch needs finite inputs", "NaN", "clean or mask the data", f"batch{path}")


def holds_nan(x: Tensor) -> bool:
    """Whether there is a NaN in x: it counts as the largest of all, and one pass finds that."""
    wide = x if x.dtype.itemsize > 1 else x.float()  # 8-bit floats have no order
    return x.numel() > 0 and isnan(wide.max().item())


def leaves(batch: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """(path, leaf) of everything in a batch; the common case of plain tensors needs no tree."""
    if all(isinstance(x, Tensor) for x in batch):
        return [(f"[{i}]", x) for i, x in enumerate(batch)]
    return [(keystr(path), x) for path, x in tree_flatten_with_path(batch)[0]]
