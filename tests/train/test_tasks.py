from __future__ import annotations

import gzip
import struct

import pytest
import torch
from torch import Generator

from forwardgrad.errors import DataError
from forwardgrad.train.tasks.classification import mlp, score
from forwardgrad.train.tasks.digits import Digits
from forwardgrad.train.tasks.fashion_mnist import FashionMnist
from forwardgrad.train.tasks.idx import read_idx
from forwardgrad.train.tasks.mnist import Mnist


def idx_bytes(tensor: torch.Tensor) -> bytes:
    header = bytes([0, 0, 8, tensor.ndim]) + struct.pack(f">{tensor.ndim}I", *tensor.shape)
    return header + tensor.numpy().tobytes()


def test_digits_come_in_three_parts_that_share_no_sample():
    splits = Digits().load()
    assert [len(y) for _, y in splits] == [1197, 300, 300]
    assert all(x.shape[1:] == (64,) and x.abs().max() == 1 for x, _ in splits)
    # scikit-learn's digits hold no two equal images, so equal rows would be shared samples.
    rows = torch.cat([x for x, _ in splits])
    assert len(rows.unique(dim=0)) == len(rows) == 1797


def test_digits_are_split_the_same_way_every_time():
    for first, second in zip(Digits().load(), Digits().load(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("task", [Digits(), Mnist(hidden=(5,)), FashionMnist(hidden=(7, 6))])
def test_a_model_is_decided_by_its_generator(task):
    first, second, other = (task.build(Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first[0].weight, other[0].weight)


def test_building_draws_only_from_the_generator():
    before = torch.get_rng_state()
    mlp((3, 4, 2), Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_a_score_is_the_mean_over_the_whole_part_and_keeps_the_mode():
    model = mlp((2, 3), Generator().manual_seed(0)).train()
    x, y = torch.randn(5000, 2), torch.randint(3, (5000,))
    result = score(model, (x, y))
    logits = model(x).detach()
    assert result.accuracy == pytest.approx(float((logits.argmax(1) == y).float().mean()))
    assert result.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, y)), rel=1e-5)
    assert model.training


def test_idx_files_are_read_whole(tmp_path):
    expected = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx_bytes(expected)))
    assert torch.equal(read_idx(tmp_path / "x.gz"), expected)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip at all",
        gzip.compress(b"\0\0\x08"),
        gzip.compress(b"\0\0\x0d\x01" + bytes(8)),
        gzip.compress(b"\0\0\x08\x03" + bytes(5)),
        gzip.compress(idx_bytes(torch.zeros(9, dtype=torch.uint8)))[:-3],
        gzip.compress(idx_bytes(torch.zeros(9, dtype=torch.uint8))[:-1]),
    ],
    ids=["empty", "foreign", "three bytes", "floats", "short header", "cut gzip", "an entry missing"],
)
def test_damaged_files_are_data_errors(tmp_path, content):
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(tmp_path / "x.gz")
    assert caught.value.path == str(tmp_path / "x.gz")


def test_missing_data_says_which_files_belong_where(tmp_path, monkeypatch):
    monkeypatch.delenv("FORWARDGRAD_DATA", raising=False)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz.*FORWARDGRAD_DATA"):
        Mnist().load()
    monkeypatch.setenv("FORWARDGRAD_DATA", str(tmp_path))
    with pytest.raises(DataError, match="no such folder") as caught:
        FashionMnist().load()
    assert caught.value.path == str(tmp_path / "fashion_mnist")
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"found no train-images-idx3-ubyte\.gz, t10k-images"):
        Mnist().load()


def test_labels_that_do_not_belong_to_the_images_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part in ("train", "t10k"):
        images, labels = torch.zeros(4, 28, 28, dtype=torch.uint8), torch.zeros(3, dtype=torch.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    monkeypatch.setenv("FORWARDGRAD_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"labels of shape \(3,\)"):
        Mnist().load()


@pytest.mark.slow
@pytest.mark.parametrize("task", [Mnist(), FashionMnist()])
def test_real_images_are_standardised_and_split(task, data_folder):
    splits = task.load()
    assert [len(y) for _, y in splits] == [50_000, 10_000, 10_000]
    x = torch.cat([splits.train[0], splits.validation[0]])
    assert x.shape == (60_000, 784)
    assert abs(float(x.mean())) < 1e-3 and abs(float(x.std()) - 1) < 1e-3
    assert splits.test[1].bincount().sum() == 10_000


def test_a_perceptron_can_begin_as_torch_begins_one():
    """Two witnesses: the bounds of `nn.Linear`, met nearly at their ends, and biases that are not zero."""
    model = mlp((100, 400), Generator().manual_seed(0), he=False)
    weight, bias = (one.detach() for one in model[0].parameters())
    bound = 100**-0.5
    assert 0.99 * bound < float(weight.abs().max()) <= bound and 0.9 * bound < float(bias.abs().max()) <= bound
    weight, bias = (one.detach() for one in mlp((100, 400), Generator().manual_seed(0)).parameters())
    assert not bias.any() and float(weight.abs().max()) > 2 * bound
