"""Masks: nothing moves outside, and inside the laws are the base's in fewer dimensions."""

from __future__ import annotations

import pytest
import torch

from forwardgrad.errors import InputError
from forwardgrad.tangents import Key, Sparse, Zero, sampler

PARAMS = {"w": torch.zeros(3, 4), "b": torch.zeros(3), "frozen": torch.zeros(2, 2)}
MASK = {"w": torch.arange(12).view(3, 4) % 3 == 0, "b": torch.tensor([True, False, True])}
KEPT = 6
NAMES = ["rank_one", "gaussian", "sphere", "orthonormal", "coordinate"]


@pytest.mark.parametrize("name", NAMES)
def test_only_kept_entries_move(name) -> None:
    drawn = Sparse(MASK, sampler(name))(PARAMS, 5, Key(1))
    assert isinstance(drawn["frozen"], Zero) and list(drawn) == list(PARAMS)
    for key, mask in MASK.items():
        assert drawn[key].shape == PARAMS[key].shape
        assert not drawn[key].dense()[:, ~mask].any() and drawn[key].dense()[:, mask].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_tangents", [1, 3])
def test_unbiased_and_as_noisy_as_stated_on_the_mask(name, num_tangents) -> None:
    draw = Sparse(MASK, sampler(name))
    grads = {"w": torch.randn(3, 4), "b": torch.randn(3), "frozen": torch.ones(2, 2)}
    masked = torch.cat([(grads[key] * mask).flatten() for key, mask in MASK.items()] + [torch.zeros(4)])
    estimates = []
    for step in range(400):
        drawn = draw(PARAMS, num_tangents, Key(1, step))
        total = drawn.weighted_sum(drawn.dot(grads) / num_tangents)
        estimates.append(torch.cat([part.flatten() for part in total.values()]))
    estimates = torch.stack(estimates)
    error = (estimates.mean(0) - masked).abs() / (estimates.std(0) / 400**0.5).clamp_min(1e-6)
    assert error.max() < 5
    ratio = estimates.square().sum(1) / masked.square().sum()
    stated = draw.second_moment(19, num_tangents)
    assert stated == sampler(name).second_moment(KEPT, num_tangents)
    assert abs(float(ratio.mean()) - stated) < 5 * float(ratio.std()) / 400**0.5 + 1e-5


def test_a_sphere_among_the_kept() -> None:
    gram = Sparse(MASK, sampler("sphere"))(PARAMS, 2, Key(1)).gram()
    torch.testing.assert_close(gram.diagonal(), torch.full((2,), float(KEPT), dtype=torch.float64))


BAD = {
    "unknown": ({"nobody": torch.ones(2, dtype=torch.bool)}, "no such parameter at `nobody`"),
    "shape": ({"b": torch.ones(2, dtype=torch.bool)}, r"shape \(2,\)"),
    "dtype": ({"b": torch.ones(3)}, "torch.float32"),
    "nothing": ({"b": torch.zeros(3, dtype=torch.bool)}, "none kept"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_masks_are_refused(case) -> None:
    mask, message = BAD[case]
    with pytest.raises(InputError, match=message):
        Sparse(mask, sampler("rank_one"))(PARAMS, 1, Key(0))


def test_more_orthonormal_tangents_than_kept_entries_are_refused() -> None:
    with pytest.raises(InputError, match="n=6"):
        Sparse(MASK, sampler("orthonormal"))(PARAMS, 7, Key(0))
