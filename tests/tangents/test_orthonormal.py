"""Frames: orthogonal over all parameters, exact where there are n of them, and of no preferred direction."""

from __future__ import annotations

import pytest
import torch

from forwardgrad.tangents import Key, Orthonormal

PARAMS = {"w": torch.zeros(4, 5), "b": torch.zeros(3)}
N = 23


@pytest.mark.parametrize("num_tangents", [1, 7, N])
def test_the_gram_matrix_is_n_times_the_identity(num_tangents) -> None:
    gram = Orthonormal()(PARAMS, num_tangents, Key(1)).gram()
    torch.testing.assert_close(gram, N * torch.eye(num_tangents, dtype=torch.float64), rtol=1e-5, atol=1e-4)


def test_as_many_as_entries_give_the_gradient_itself() -> None:
    drawn = Orthonormal()({name: p.double() for name, p in PARAMS.items()}, N, Key(1))
    grads = {"w": torch.randn(4, 5, dtype=torch.float64), "b": torch.randn(3, dtype=torch.float64)}
    estimate = drawn.weighted_sum(drawn.dot(grads) / N)
    torch.testing.assert_close(estimate, grads)


def test_without_the_signs_the_frame_would_lean() -> None:
    firsts = torch.stack([Orthonormal()({"w": torch.zeros(3)}, 2, Key(2, t))["w"].data for t in range(800)])
    mean = firsts.mean(0) / (firsts.std(0) / 800**0.5)
    assert mean.abs().max() < 4.5
