"""What a tangent sampler is, and what it may be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.tangents.collection import Tangents
from forwardgrad.tangents.key import Key
from forwardgrad.tangents.stream import name_hashes


@runtime_checkable
class Sampler(Protocol):
    """Draws K random directions of the whole parameter space, with E[v v^T] = I."""

    def __call__(self, params: Mapping[str, Tensor], num_tangents: int, key: Key) -> Tangents:
        """Draws tangents with the parameters' dtypes and on their device; the same key gives the same ones.

        Args:
            params: name -> parameter; only names, shapes, dtypes and the device are read.
            num_tangents: K, at least 1.
            key: which draw.

        Raises:
            InputError: no parameters, K < 1, parameters that are not real and floating, on several
                devices, or with names that hash alike.
        """

    def second_moment(self, n: int, num_tangents: int) -> float:
        """E |g_hat|^2 / |g|^2 of the estimate g_hat = 1/K sum_k <g, v_k> v_k.

        Args:
            n: number of entries of all parameters together.
            num_tangents: K.
        """


def admit(params: Mapping[str, Tensor], num_tangents: int) -> torch.device:
    """Checks what a sampler is asked for, and returns the one device of the parameters.

    Args:
        params: name -> parameter.
        num_tangents: K.

    Raises:
        InputError: as in `Sampler.__call__`.
    """
    if not params:
        raise InputError(
            needs="a tangent sampler needs parameters",
            found="none",
            cure="pass parameters with requires_grad=True",
        )
    if num_tangents < 1:
        raise InputError(
            needs="a tangent sampler needs at least one tangent",
            found=f"num_tangents={num_tangents}",
            cure="ask for num_tangents >= 1",
        )
    name_hashes(tuple(params))
    device = next(iter(params.values())).device
    for name, param in params.items():
        if not param.is_floating_point():
            raise InputError(
                needs="a tangent sampler needs real floating-point parameters",
                found=f"dtype {param.dtype}",
                cure="freeze this parameter with requires_grad_(False), or keep it in a floating dtype",
                path=name,
            )
        if param.device != device:
            raise InputError(
                needs="a tangent sampler needs all parameters on one device",
                found=f"{param.device} beside {device}",
                cure=f"move the model to one device, e.g. model.to('{device}')",
                path=name,
            )
    return device
