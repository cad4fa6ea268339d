from __future__ import annotations

from itertools import islice

import pytest
import torch

from forwardgrad.train.batches import batches
from forwardgrad.train.seeding import derived_seed, stream


@pytest.mark.parametrize(("num_samples", "size", "per_epoch"), [(12, 4, 3), (14, 4, 3), (3, 8, 1)])
def test_an_epoch_meets_every_sample_at_most_once_with_its_label(num_samples, size, per_epoch):
    part = (torch.arange(num_samples), -torch.arange(num_samples))
    epoch = list(islice(batches(part, size, stream(0, "order")), per_epoch))
    seen = torch.cat([x for x, _ in epoch])
    assert len(seen) == per_epoch * min(size, num_samples) == len(seen.unique())
    assert all(torch.equal(x, -y) for x, y in epoch)


def test_the_order_is_decided_by_the_generator_and_changes_from_epoch_to_epoch():
    part = (torch.arange(64),)
    first, again, other = (
        torch.stack([x for (x,) in islice(batches(part, 64, stream(seed, "order")), 2)]) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first[0], first[1])


def test_seeds_and_purposes_have_streams_of_their_own():
    seeds = {derived_seed(seed, purpose) for seed in range(100) for purpose in ("weights", "order", "dropout")}
    assert len(seeds) == 300 and all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(0, "weights") == 0x3B71C96AECE20866  # records stay replayable
