"""Factored gradients to try things on."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
import torch
from torch import Tensor

from forwardgrad.gradient import FactoredGradient


@pytest.fixture(scope="session")
def make() -> Callable[..., FactoredGradient]:
    """make(shape, rank, seed, dtype): a factored gradient of normal numbers."""

    def build(shape=(6, 9), rank=2, seed=0, dtype=torch.float32) -> FactoredGradient:
        generator = torch.Generator().manual_seed(seed)
        sizes = (shape[0], rank), (prod(shape[1:]), rank), (rank,)
        factors = [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]
        return FactoredGradient(*factors, shape)

    return build


@pytest.fixture(scope="session")
def close() -> Callable[[Tensor, Tensor], None]:
    """close(got, expected): equal up to float32's rounding, `got` factored or not."""

    def check(got: Tensor, expected: Tensor) -> None:
        got = got.densify() if isinstance(got, FactoredGradient) else got
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)

    return check
