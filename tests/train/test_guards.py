"""What is asked before a run goes on: the folder for itself, room on the disk, the same data, the same random state."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from forwardgrad.errors import CheckpointError, OutputError
from forwardgrad.train import comparison
from forwardgrad.train.comparison import Contender, begin, carry_on, compare
from forwardgrad.train.config import build_config
from forwardgrad.train.lock import held
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.randomness import random_state, seeded, set_random_state
from forwardgrad.train.record import Cost, read_record
from forwardgrad.train.report import Silence
from forwardgrad.train.space import decimal
from forwardgrad.train.tasks.digits import Digits
from forwardgrad.train.tasks.task import Splits
from forwardgrad.train.tensorbytes import fingerprint

SPLITS = Digits().load()
COST = Cost(forward_passes=3.0, peak_bytes=0, tape_bytes=0)
Usage = namedtuple("Usage", "total used free")


class Killed(BaseException):
    """What no code catches."""


class Killing(Silence):
    def progress(self, row, seed_index, now) -> None:
        if now.step == 8:
            raise Killed


@pytest.fixture(autouse=True)
def measured(monkeypatch) -> None:
    monkeypatch.setattr(comparison, "step_cost", lambda config, splits: COST)


def rows(**tree) -> list[Contender]:
    small = {"method": "backprop", "steps": 12, "evaluations": 3, "checkpoints": {"every": 5}, "lr": 0.1}
    return [Contender("row", build_config(small | tree))]


def half_done(folder: Path, **tree) -> OutputFolder:
    """A run killed after step 8, its checkpoint of step 5."""
    output = OutputFolder(folder).probe()
    with pytest.raises(Killed):
        carry_on(begin(rows(**tree), output), SPLITS, output, Killing())
    return output


HOLDING = """
import sys, time
from pathlib import Path
from forwardgrad.train.lock import held
from forwardgrad.train.output import OutputFolder
with held(OutputFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_that_another_process_writes_to_is_refused_and_a_killed_one_does_not_block(tmp_path):
    output = half_done(tmp_path)
    record, before = read_record(tmp_path / "record.json"), (tmp_path / "record.json").read_bytes()
    other = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        for work in (lambda: carry_on(record, SPLITS, output, Silence()), lambda: begin(rows(), output)):
            with pytest.raises(OutputError, match="needs one process at a time") as caught:
                work()
            assert caught.value.path == str(tmp_path)
        assert (tmp_path / "record.json").read_bytes() == before
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert carry_on(record, SPLITS, output, Silence()).finished


def test_a_process_may_enter_its_own_folder_again(tmp_path):
    with held(OutputFolder(tmp_path)), held(OutputFolder(tmp_path)):
        pass
    with held(OutputFolder(tmp_path)):
        pass


def test_a_folder_where_no_lock_can_be_made_is_an_output_error(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError), held(OutputFolder(tmp_path / "taken")):
        pass


WEIGHTS = 4 * (64 * 64 + 64 + 64 * 10 + 10)


@pytest.mark.parametrize(
    ("tree", "copies", "slopes"),
    [
        ({}, 2, 0),
        ({"momentum": 0.9}, 3, 0),
        ({"method": "control"}, 3, 0),
        ({"method": {"name": "forward", "num_tangents": 5}}, 2, 12 * (5 * 8 + 4)),
    ],
    ids=["backprop", "momentum", "control", "forward"],
)
@pytest.mark.parametrize("keep", [1, 4])
def test_too_little_room_is_refused_before_the_first_step(tmp_path, monkeypatch, tree, copies, slopes, keep):
    needed = (keep + 1) * (copies * WEIGHTS + 2**16) + slopes
    chosen = rows(checkpoints={"every": 5, "keep": keep}, **tree)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2 * needed, needed + 1, needed - 1))
    output = OutputFolder(tmp_path).probe()
    with pytest.raises(OutputError) as caught:
        compare(chosen, SPLITS, output, Silence())
    assert decimal(needed) in caught.value.needs and decimal(needed - 1) in caught.value.found
    assert list((tmp_path / "checkpoints").iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2 * needed, needed, needed))
    assert compare(chosen, SPLITS, output, Silence()).finished


def test_a_checkpoint_is_no_larger_than_was_asked_for(tmp_path):
    for place, tree in enumerate([{}, {"momentum": 0.9}, {"method": "control"}]):
        copies = 2 if place == 0 else 3
        half_done(tmp_path / str(place), **tree)
        (saved,) = (tmp_path / str(place) / "checkpoints").iterdir()
        assert copies * WEIGHTS < saved.stat().st_size < copies * WEIGHTS + 2**16


def test_checkpoints_that_are_there_need_no_room_again(tmp_path, monkeypatch):
    output = half_done(tmp_path, checkpoints={"every": 2, "keep": 2})
    one = 2 * WEIGHTS + 2**16
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2 * one, one, one))
    assert carry_on(read_record(tmp_path / "record.json"), SPLITS, output, Silence()).finished


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (3e9, "3.0 GB")])
def test_bytes_are_readable(count, text):
    assert decimal(count) == text


def noisy(loss):
    """A loss of its own noise from all generators, of which two keep a spare number."""

    def drawing(self, model, x, y):
        noise = random.gauss(0, 1) + np.random.standard_normal() + random.random() + float(torch.rand(()))
        return loss(self, model, x, y) * (1 + 0.1 * noise)

    return drawing


@pytest.mark.parametrize("method", ["backprop", {"name": "forward", "num_tangents": 2}], ids=str)
def test_a_loss_that_draws_from_python_and_numpy_goes_on_bit_for_bit(tmp_path, monkeypatch, method):
    monkeypatch.setattr(Digits, "loss", noisy(Digits.loss))
    whole = compare(rows(method=method), SPLITS, OutputFolder(tmp_path / "whole").probe(), Silence())
    output = half_done(tmp_path / "parts", method=method)
    random.seed(77), np.random.seed(78)
    parts = carry_on(read_record(tmp_path / "parts" / "record.json"), SPLITS, output, Silence())
    assert parts.entries[0].runs[0].weights == whole.entries[0].runs[0].weights


def test_a_seed_decides_every_generator_and_leaves_them_alone():
    def drawn():
        return random.gauss(0, 1), float(np.random.standard_normal()), float(torch.rand(()))

    before = random_state()
    with seeded(3):
        first = drawn()
    with seeded(3):
        assert drawn() == first
    with seeded(4):
        assert all(a != b for a, b in zip(drawn(), first, strict=True))
    left = drawn()
    set_random_state(before)
    assert drawn() == left


def test_going_on_with_other_data_is_refused_with_both_checksums(tmp_path):
    output = half_done(tmp_path)
    record = read_record(tmp_path / "record.json")
    assert record.data == fingerprint(SPLITS) and len(record.data) == 64
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    x, y = SPLITS.train
    moved = x.clone()
    moved[3, 5] += 2**-20
    with pytest.raises(CheckpointError) as caught:
        carry_on(record, Splits((moved, y), *SPLITS[1:]), output, Silence())
    assert record.data in str(caught.value) and fingerprint(Splits((moved, y), *SPLITS[1:])) in str(caught.value)
    assert caught.value.path == Digits().source.look().place
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert carry_on(record, SPLITS, output, Silence()).finished


def test_a_fingerprint_sees_order_shape_and_dtype():
    x = torch.zeros(2, 3)
    others = [[[x], [x]], [[x, x]], [[x.view(3, 2), x]], [[x.to(torch.int32), x]], [[x, x], []], [[x, x + 1]]]
    assert len({fingerprint(parts) for parts in others}) == len(others)
    assert fingerprint([[x.t().contiguous().t(), x]]) == fingerprint([[x, x]])
