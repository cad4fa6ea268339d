from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from forwardgrad.errors import DataError, MissingExtraError
from forwardgrad.train.config import build_config
from forwardgrad.train.loop import step_cost, train_run
from forwardgrad.train.tasks.cifar10 import JPEG, LOSSLESS, ORIGINAL, Cifar10
from forwardgrad.train.tasks.convnet import convnet
from forwardgrad.train.tasks.pictures import read_jpegs

SMALL = {"name": "cifar10", "images": "lossless", "channels": [8, 8, 8], "batch_size": 16}


def save(folder, pixels, labels) -> None:
    (folder / "cifar10").mkdir()
    np.savez(folder / "cifar10" / LOSSLESS.names[0], x=pixels, y=labels)


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
    splits, again = (Cifar10(images="lossless").load() for _ in range(2))
    assert [len(y) for _, y in splits] == [826, 137, 137]
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
    lossless = Cifar10(images="lossless")
    with pytest.raises(DataError, match=r"train_lossless_0000-3999\.npz") as caught:
        lossless.load()
    assert caught.value.path == str(tmp_path / "cifar10")
    save(tmp_path, np.zeros((5, 8, 8)), np.zeros(5))
    with pytest.raises(DataError, match="float64 images of shape"):
        lossless.load()
    (tmp_path / "cifar10" / LOSSLESS.names[0]).write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="damaged"):
        lossless.load()


def write_jpegs(path, pixels, labels) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    files = []
    for picture in pixels:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "jpeg", quality=95)
        files.append(file.getvalue())
    table = {"label": pyarrow.array(labels.astype(np.int8)), "jpeg": files, "index": np.arange(len(files))}
    parquet.write_table(pyarrow.table(table), path)


def test_jpegs_are_decoded_and_the_test_images_are_the_test_part(tmp_path, monkeypatch, pictures):
    labels = np.arange(1100) % 10
    flat = np.repeat(np.repeat(pictures[:, :1, :1], 32, 1), 32, 2)  # of one colour each, so that JPEG loses little
    for name, part in zip(JPEG.names, (slice(0, 40), slice(40, 52)), strict=True):
        write_jpegs(tmp_path / "cifar10" / name, flat[part], labels[part])
    splits = Cifar10().load()
    assert [tuple(x.shape) for x, _ in splits] == [(n, 3, 32, 32) for n in (36, 4, 12)]
    assert splits.test[1].tolist() == labels[40:52].tolist()
    scale = np.asarray([[float(x.max() - x.min()) for x in splits.test[0].unbind(1)]])
    colours = flat[40:52, 0, 0].astype(float)
    centred = (splits.test[0].mean((2, 3)).numpy() - splits.test[0].mean((0, 2, 3)).numpy()) / scale
    assert np.abs(centred - (colours - colours.mean(0)) / np.ptp(colours, axis=0)).max() < 0.1


def test_a_damaged_parquet_file_is_a_data_error(tmp_path, pictures):
    for name in JPEG.names:
        write_jpegs(tmp_path / "cifar10" / name, pictures[:20], np.arange(20) % 10)
    path = tmp_path / "cifar10" / JPEG.names[0]
    whole = path.read_bytes()
    for content in (whole[:-20], b"PAR1", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged") as caught:
            Cifar10().load()
        assert caught.value.path == str(path)


def test_another_copy_that_is_there_is_named(pictures):
    with pytest.raises(DataError, match=r"test_jpeg\.parquet.*set task\.images=lossless"):
        Cifar10().load()


def test_the_jpegs_need_a_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install forwardgrad\[images\]"):
        read_jpegs(tmp_path / "x.parquet", "cifar10")


def test_the_published_images_are_read_too(tmp_path, pictures):
    for name, size in zip(ORIGINAL.names, (50, 7), strict=True):
        np.savez(tmp_path / "cifar10" / name, x=pictures[:size], y=np.arange(size) % 10)
    assert [len(y) for _, y in Cifar10(images="original").load()] == [45, 5, 7]


@pytest.mark.slow
@pytest.mark.parametrize(("images", "sizes"), [("lossless", (3000, 500, 500)), ("jpeg", (18_000, 2000, 10_000))])
def test_the_real_pictures(data_folder, images, sizes):
    task = Cifar10(images=images)
    if not (data_folder / "cifar10").is_dir():
        pytest.skip("needs cifar10")
    assert [tuple(x.shape) for x, _ in task.load()] == [(n, 3, 32, 32) for n in sizes]
