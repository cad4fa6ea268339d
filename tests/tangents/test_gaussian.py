"""Normal numbers: their distribution, in each precision."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from forwardgrad.tangents import Gaussian, Key
from forwardgrad.tangents.gaussian import _uniform


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_numbers_are_normal(dtype) -> None:
    numbers = Gaussian()({"w": torch.zeros(50, 101, dtype=dtype)}, 4, Key(11))["w"].data.double().flatten()
    assert stats.kstest(numbers.numpy(), "norm").pvalue > (0.01 if dtype != torch.bfloat16 else 1e-4)
    assert abs(float((numbers**4).mean()) - 3) < 0.3
    pairs = torch.corrcoef(numbers.view(-1, 2).T)[0, 1], torch.corrcoef(numbers.view(-1, 2).abs().T)[0, 1]
    assert max(map(abs, pairs)) < 0.05


def test_half_precision_is_float32_rounded() -> None:
    fine, coarse = (
        Gaussian()({"w": torch.zeros(9, dtype=d)}, 2, Key(1))["w"].data for d in (torch.float32, torch.half)
    )
    assert torch.equal(fine.half(), coarse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_extreme_words_give_finite_numbers(dtype) -> None:
    words = torch.tensor([0, 0, 2**32 - 1, 2**32 - 1])
    uniform = _uniform(words, dtype)
    assert uniform.min() > 0 and uniform.max() <= 1
    assert (-2 * uniform.log()).sqrt().isfinite().all()
    assert (-2 * uniform.log()).sqrt().max() > 6.7


def test_float64_has_more_than_32_bits() -> None:
    numbers = Gaussian()({"w": torch.zeros(64, dtype=torch.float64)}, 1, Key(3))["w"].data
    assert (numbers != numbers.float().double()).all()
