"""Rarer views: diagonals, windows, and the two faces of a complex tensor. In-place writes are seen through them too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forwardgrad.forward_ad.dual import Dual
from forwardgrad.forward_ad.registry import rule
from forwardgrad.forward_ad.rules.views import up, view_of


@rule(torch.diagonal, Tensor.diagonal)
def diagonal(input: Dual, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    y = input.primal.diagonal(offset, dim1, dim2)
    return view_of(input, y, input.dense().diagonal(offset, up(dim1), up(dim2)))


@rule(Tensor.unfold)
def unfold(input: Dual, dimension: int, size: int, step: int) -> Any:
    if not input.primal.ndim:
        return NotImplemented
    y = input.primal.unfold(dimension, size, step)
    return view_of(input, y, input.dense().unfold(dimension % input.primal.ndim + 1, size, step))


@rule(torch.view_as_real)
def view_as_real(input: Dual) -> Any:
    return view_of(input, torch.view_as_real(input.primal), torch.view_as_real(input.dense()))


@rule(torch.view_as_complex)
def view_as_complex(input: Dual) -> Any:
    dx = input.dense()
    if dx.stride(-1) != 1 or any(s % 2 for s in dx.stride()[:-1]):
        dx = dx.contiguous()
    return view_of(input, torch.view_as_complex(input.primal), torch.view_as_complex(dx))


@rule(Tensor.real.__get__, torch.real)
def real(input: Dual) -> Any:
    return view_of(input, input.primal.real, input.dense().real) if input.primal.is_complex() else input


@rule(Tensor.imag.__get__, torch.imag)
def imag(input: Dual) -> Any:
    return view_of(input, input.primal.imag, input.dense().imag)


@rule(torch.ravel, Tensor.ravel)
def ravel(input: Dual) -> Any:
    y, dx = input.primal.ravel(), input.dense()
    return input if y is input.primal else view_of(input, y, dx.reshape(dx.shape[0], -1))
