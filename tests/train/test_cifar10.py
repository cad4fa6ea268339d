from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Generator

from forwardgrad.errors import DataError
from forwardgrad.train.config import build_config
from forwardgrad.train.loop import step_cost, train_run
from forwardgrad.train.tasks.cifar10 import SOURCE, Cifar10
from forwardgrad.train.tasks.convnet import convnet

SMALL = {"name": "cifar10", "channels": [8, 8, 8], "batch_size": 16}


def save(folder, pixels, labels) -> None:
    (folder / "cifar10").mkdir()
    np.savez(folder / "cifar10" / SOURCE.names[0], x=pixels, y=labels)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """1,100 noisy pictures whose colour is their class, so that the task runs where there is no data."""
    monkeypatch.setenv("FORWARDGRAD_DATA", str(tmp_path))
    generator = np.random.default_rng(0)
    labels = np.arange(1100) % 10
    pixels = generator.integers(0, 60, (1100, 32, 32, 3), dtype=np.uint8)
    pixels[..., 0] += (19 * labels).astype(np.uint8)[:, None, None]
    save(tmp_path, pixels, labels)
    return pixels


def test_parts_share_no_picture_and_are_the_same_every_time(pictures):
    splits, again = Cifar10().load(), Cifar10().load()
    assert [len(y) for _, y in splits] == [100, 500, 500]
    rows = torch.cat([x for x, _ in splits]).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows) == 1100
    assert all(torch.equal(a.train[i], b.train[i]) for a, b in [(splits, again)] for i in (0, 1))
    x = splits.train[0]
    assert x.mean((0, 2, 3)).abs().max() < 1e-4 and (x.std((0, 2, 3)) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("method", ["backprop", "forward"])
def test_runs_repeat_bit_for_bit(pictures, method):
    config = build_config({"task": SMALL, "method": method, "steps": 3, "evaluations": 1})
    splits = config.task.load()
    cost = step_cost(config, splits)
    first, second, other = (train_run(config, splits, seed, cost, lambda now: None) for seed in (0, 0, 1))
    assert first.weights == second.weights != other.weights


def test_training_lowers_the_loss(pictures):
    config = build_config({"task": SMALL, "method": "backprop", "steps": 30, "evaluations": 1, "lr": 0.1})
    splits = config.task.load()
    run = train_run(config, splits, 0, step_cost(config, splits), lambda now: None)
    assert run.curve[-1].validation_loss < 0.9 * run.curve[0].validation_loss


def test_the_net_is_decided_by_its_generator_and_takes_any_size():
    before = torch.get_rng_state()
    first, second, other = (convnet(3, (16, 12), 10, Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first[0].weight, other[0].weight)
    assert first(torch.randn(2, 3, 20, 33)).shape == (2, 10)


def test_missing_or_foreign_files_are_data_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("FORWARDGRAD_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"train_lossless_0000-3999\.npz") as caught:
        Cifar10().load()
    assert caught.value.path == str(tmp_path / "cifar10")
    save(tmp_path, np.zeros((5, 8, 8)), np.zeros(5))
    with pytest.raises(DataError, match="float64 images of shape"):
        Cifar10().load()
    (tmp_path / "cifar10" / SOURCE.names[0]).write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="damaged"):
        Cifar10().load()


def test_the_real_pictures(data_folder):
    if not Cifar10().source.look().present:
        pytest.skip("needs cifar10")
    assert [tuple(x.shape) for x, _ in Cifar10().load()] == [(n, 3, 32, 32) for n in (3000, 500, 500)]
