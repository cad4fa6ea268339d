from __future__ import annotations

import math
import wave

import numpy as np
import pytest
import torch

from forwardgrad.errors import DataError
from forwardgrad.train.config import build_config
from forwardgrad.train.loop import step_cost, train_run
from forwardgrad.train.tasks import recordings
from forwardgrad.train.tasks.mel import HOP, log_mel, triangles
from forwardgrad.train.tasks.spoken_digits import SpokenDigits

SMALL = {"name": "fsdd", "channels": [8, 8], "batch_size": 16}


def clip(digit: int, take: int) -> np.ndarray:
    """A tone whose pitch is the digit, and whose length and phase are the take."""
    time = np.arange(2000 + 300 * take) / recordings.RATE
    return (12000 * np.sin(2 * math.pi * (300 + 300 * digit) * time + take)).astype(np.int16)


@pytest.fixture
def spoken(tmp_path, monkeypatch):
    """Ten tones, twenty takes each, as wav files, so that the task runs where there is no data."""
    monkeypatch.setenv("FORWARDGRAD_DATA", str(tmp_path))
    folder = tmp_path / "audio" / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for digit in range(10):
        for take in range(20):
            with wave.open(str(folder / f"{digit}_anna_{take}.wav"), "wb") as file:
                file.setparams((1, 2, recordings.RATE, 0, "NONE", ""))
                file.writeframes(clip(digit, take).astype("<i2").tobytes())
    return folder


def test_takes_are_not_shared_between_parts(spoken):
    splits = SpokenDigits().load()
    assert [tuple(x.shape) for x, _ in splits] == [(n, 1, 32, 48) for n in (100, 50, 50)]
    assert all(torch.equal(y.bincount(), torch.full((10,), len(y) // 10)) for _, y in splits)
    read = recordings.read(spoken.parent)
    expected = [read.clips[i] for i in range(200) if read.take[i] < 5]
    assert len(expected) == 50 and all(len(one) <= len(clip(0, 4)) for one in expected)
    rows = torch.cat([x for x, _ in splits]).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)


def test_the_array_file_holds_the_same_as_the_wav_files(spoken):
    read = recordings.read(spoken.parent)
    offsets = np.cumsum([0, *map(len, read.clips)])
    arrays = {"label": read.label.numpy(), "take": read.take.numpy(), "rate": np.array(recordings.RATE)}
    np.savez(spoken.parent / "fsdd_int16.npz", samples=np.concatenate(read.clips), offsets=offsets, **arrays)
    packed = recordings.read(spoken.parent)
    assert torch.equal(packed.label, read.label) and torch.equal(packed.take, read.take)
    assert all(np.array_equal(a, b) for a, b in zip(packed.clips, read.clips, strict=True))
    np.savez(spoken.parent / "fsdd_int16.npz", samples=np.concatenate(read.clips), offsets=offsets[1:], **arrays)
    with pytest.raises(DataError, match="200 labels for 199 clips"):
        SpokenDigits().load()


def test_damaged_and_missing_recordings_are_data_errors(spoken, tmp_path, monkeypatch):
    (spoken / "3_anna_7.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"3_anna_7\.wav"):
        SpokenDigits().load()
    monkeypatch.setenv("FORWARDGRAD_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"fsdd_int16\.npz \(or recordings\)"):
        SpokenDigits().load()


def test_a_tone_is_loudest_in_its_band():
    time = torch.arange(8000) / 8000
    energies = log_mel(torch.sin(2 * math.pi * 1000 * time)[None], 8000)
    assert energies.shape == (1, 32, 8000 // HOP + 1)
    loudest = int(energies[0, :, 30].argmax())
    nearest = triangles(32, 129, 8000)[:, 32].argmax()  # 1000 Hz is line 32 of 128 up to 4000 Hz
    assert loudest == int(nearest)


def test_the_triangles_cover_every_frequency_between_the_first_and_the_last_centre():
    total = triangles(32, 129, 8000).sum(0)
    assert torch.allclose(total[4:115], torch.ones(111, dtype=total.dtype))


@pytest.mark.parametrize("method", ["backprop", "forward"])
def test_runs_repeat_bit_for_bit(spoken, method):
    config = build_config({"task": SMALL, "method": method, "steps": 3, "evaluations": 1})
    splits = config.task.load()
    cost = step_cost(config, splits)
    first, second, other = (train_run(config, splits, seed, cost, lambda now: None) for seed in (0, 0, 1))
    assert first.weights == second.weights != other.weights


def test_training_lowers_the_loss(spoken):
    config = build_config({"task": SMALL, "method": "backprop", "steps": 30, "evaluations": 1, "lr": 0.3})
    splits = config.task.load()
    run = train_run(config, splits, 0, step_cost(config, splits), lambda now: None)
    assert run.curve[-1].validation_loss < 0.9 * run.curve[0].validation_loss


def test_the_real_recordings(data_folder):
    if not SpokenDigits().source.look().present:
        pytest.skip("needs audio/fsdd")
    splits = SpokenDigits().load()
    assert [tuple(x.shape) for x, _ in splits] == [(n, 1, 32, 48) for n in (2400, 300, 300)]
    assert all(int(y.bincount().min()) == int(y.bincount().max()) for _, y in splits)
