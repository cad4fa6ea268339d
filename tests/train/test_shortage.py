"""Memory that runs short: fewer tangents at once, or a clean end. Nothing saved is lost either way."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from forwardgrad.errors import OutOfMemoryError, UnsupportedError
from forwardgrad.slopes import Jvp
from forwardgrad.train import comparison
from forwardgrad.train.comparison import Contender, begin, carry_on, compare
from forwardgrad.train.config import build_config
from forwardgrad.train.methods import CHOICES, Control, Forward, halved, in_chunks
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Cost, Record, read_record
from forwardgrad.train.replay import logs, replay
from forwardgrad.train.report import Silence
from forwardgrad.train.shortage import ShortageWarning, is_shortage
from forwardgrad.train.tasks.digits import Digits

SPLITS = Digits().load()
COST = Cost(forward_passes=3.0, peak_bytes=0, tape_bytes=0)
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ..."
ERRORS = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(ALLOCATOR)]


class Killed(BaseException):
    """What no code catches."""


class Killing(Silence):
    def __init__(self, step: int) -> None:
        self.step = step

    def progress(self, row, seed_index, now) -> None:
        if now.step == self.step:
            raise Killed


@pytest.fixture(autouse=True)
def measured(monkeypatch) -> None:
    monkeypatch.setattr(comparison, "step_cost", lambda config, splits: COST)


def rows(**tree) -> list[Contender]:
    small = {"steps": 12, "evaluations": 3, "checkpoints": {"every": 6}, "lr": 0.1}
    return [Contender("row", build_config(small | tree))]


def short(monkeypatch, least: int, error: BaseException = ERRORS[0], after: int = 0) -> None:
    """From the push number `after` on, no more than `least` tangents have room."""
    pushed = iter(range(10**6))
    loss = Digits.loss

    def wanting(self, model, *batch):
        found = loss(self, model, *batch)
        if next(pushed) >= after and getattr(getattr(found, "diary", None), "num_tangents", 1) > least:
            raise error
        return found

    monkeypatch.setattr(Digits, "loss", wanting)


def trained(folder: Path, **tree) -> Record:
    return compare(rows(**tree), SPLITS, OutputFolder(folder).probe(), Silence())


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", ["forward", "control"])
def test_a_shortage_halves_the_chunk_and_trains_the_same_run(tmp_path, monkeypatch, name, error):
    method = {"name": name, "num_tangents": 8}
    whole = trained(tmp_path / "whole", method=method).entries[0].runs[0]
    short(monkeypatch, 2, error, after=4)
    with pytest.warns(ShortageWarning) as caught:
        run = trained(tmp_path / "short", method=method).entries[0].runs[0]
    said = [str(one.message) for one in caught]
    assert [line[:35] for line in said] == [
        "Memory ran short in step 4: 4 tange",
        "Memory ran short in step 4: 2 tange",
    ]
    assert (whole.chunk_size, run.chunk_size) == (None, 2)
    assert run.curve[-1].validation_loss == pytest.approx(whole.curve[-1].validation_loss, rel=1e-4)


def test_a_shrunken_run_goes_on_bit_for_bit_and_can_be_replayed(tmp_path, monkeypatch):
    method = {"name": "forward", "num_tangents": 8}
    with monkeypatch.context() as patch, pytest.warns(ShortageWarning):
        short(patch, 2, after=8)
        whole = trained(tmp_path / "whole", method=method)
    output = OutputFolder(tmp_path / "parts").probe()
    record = begin(rows(method=method), output)
    with monkeypatch.context() as patch, pytest.warns(ShortageWarning), pytest.raises(Killed):
        short(patch, 2, after=8)
        carry_on(record, SPLITS, output, Killing(11))
    saved = sorted(path.stem[-2:] for path in (tmp_path / "parts" / "checkpoints").iterdir())
    assert saved == ["06", "09"]  # the second one since it shrank
    resumed = carry_on(read_record(tmp_path / "parts" / "record.json"), SPLITS, output, Silence())
    (one,), (other,) = whole.entries[0].runs, resumed.entries[0].runs
    assert (one.weights, one.chunk_size) == (other.weights, 2) and other.chunk_size == 2
    assert replay(logs(tmp_path / "parts")[0]).weights == one.weights


def test_the_step_is_tried_again_with_the_same_random_numbers(monkeypatch, tmp_path):
    drawn: list[tuple[float, ...]] = []
    loss = Digits.loss

    def drawing(self, model, *batch):
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
        return loss(self, model, *batch)

    monkeypatch.setattr(Digits, "loss", drawing)
    short(monkeypatch, 4)
    with pytest.warns(ShortageWarning):
        trained(tmp_path, method={"name": "forward", "num_tangents": 8}, steps=1)
    first_half_and_second = drawn[-3:]
    assert len(set(first_half_and_second)) == 1


def test_a_first_step_without_room_changes_the_config_in_the_record(tmp_path, monkeypatch):
    monkeypatch.undo()
    short(monkeypatch, 4)
    with pytest.warns(ShortageWarning, match="the first step: 4 tangents at once from here on, in place of 8"):
        record = trained(tmp_path, method={"name": "forward", "num_tangents": 8}, seeds=[0, 1])
    assert record.entries[0].config["method"]["chunk_size"] == 4
    assert [run.chunk_size for run in record.entries[0].runs] == [4, 4]
    assert read_record(tmp_path / "record.json").entries[0].config == record.entries[0].config


@pytest.mark.parametrize(
    ("method", "tried"),
    [
        ("backprop", "(epoch 0, batch 8); use"),
        ({"name": "spsa", "num_tangents": 3}, "(epoch 0, batch 8); use"),
        ({"name": "forward", "num_tangents": 1}, "1 tangent at once, the least there is"),
    ],
)
def test_what_cannot_shrink_stops_with_the_step_and_the_last_good_checkpoint(tmp_path, monkeypatch, method, tried):
    steps = iter(range(1000))
    per_step = 6 if "spsa" in str(method) else 1
    loss = Digits.loss

    def wanting(self, model, *batch):
        if next(steps) >= 8 * per_step:
            raise ERRORS[2]
        return loss(self, model, *batch)

    monkeypatch.setattr(Digits, "loss", wanting)
    with pytest.raises(OutOfMemoryError, match="none left in step 8") as caught:
        trained(tmp_path, method=method)
    (saved,) = (tmp_path / "checkpoints").iterdir()
    assert tried in str(caught.value) and str(saved) in str(caught.value) and "step000000006" in saved.name


def test_a_chunk_of_one_that_is_still_too_large_stops_cleanly(tmp_path, monkeypatch):
    short(monkeypatch, 0)
    with pytest.warns(ShortageWarning), pytest.raises(OutOfMemoryError, match=r"the least there is.*no checkpoint yet"):
        trained(tmp_path, method={"name": "forward", "num_tangents": 4})


def test_other_errors_pass(tmp_path, monkeypatch):
    short(monkeypatch, 0, RuntimeError("shape '[3]' is invalid"))
    with pytest.raises(RuntimeError, match="is invalid"):
        trained(tmp_path, method={"name": "forward", "num_tangents": 4})


def test_an_error_is_a_shortage_by_what_it_came_from():
    try:
        try:
            raise ERRORS[2]
        except RuntimeError as inner:
            raise UnsupportedError("a", "b", "c") from inner
    except UnsupportedError as error:
        assert is_shortage(error)
    assert not is_shortage(RuntimeError("out of luck")) and not is_shortage(None)


@pytest.mark.parametrize("choice", [Forward(num_tangents=9), Control(num_tangents=9), Forward(chunk_size=99)])
def test_a_chunk_is_halved_down_to_one(choice):
    sizes = []
    while (choice := halved(choice)) is not None:
        sizes.append(choice.chunk_size)
    assert sizes == ([4, 2, 1] if sizes else [])


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice().name)
def test_every_method_has_a_chunk_or_none_to_shrink(choice):
    pushes = choice().name in {"forward", "control"}
    assert (halved(in_chunks(choice(num_tangents=4), 3)) is not None) if pushes else halved(choice()) is None


def test_a_chunk_in_the_config_reaches_the_method():
    assert Forward(num_tangents=4, chunk_size=3).build(torch.nn.Linear(1, 1)).chunk_size == 3
    assert Control(num_tangents=4, chunk_size=3).build(torch.nn.Linear(1, 1)).slope == Jvp(3)


REAL = """
import resource, sys, warnings
from pathlib import Path
import torch._dynamo  # which the first optimizer imports
from forwardgrad.train.comparison import Contender, begin, carry_on
from forwardgrad.train.config import build_config
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.report import Silence
from forwardgrad.train.tasks.digits import Digits

task = {"name": "digits", "hidden": [512], "batch_size": 512}
config = build_config({"task": task, "method": {"name": "forward", "num_tangents": 64}, "steps": 1, "evaluations": 1})
splits = Digits().load()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
room = used + 60 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, room))
warnings.simplefilter("always")
output = OutputFolder(Path(sys.argv[1])).probe()
run = carry_on(begin([Contender("forward", config)], output), splits, output, Silence()).entries[0].runs[0]
print(run.chunk_size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on address space is Linux's")
def test_a_real_limit_on_memory_shrinks_the_chunk(tmp_path):
    # All 64 tangents at once need 64 MiB for one layer's activations, and 60 are left.
    done = subprocess.run([sys.executable, "-c", REAL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ShortageWarning: Memory ran short" in done.stderr
    assert 1 <= int(done.stdout) <= 32
