"""A run that was killed ends as if it had not been: real processes, real SIGKILL."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from killing import Killed, Killing
from torch import nn

from forwardgrad.errors import CheckpointError, NonFiniteError, OutputError
from forwardgrad.train import comparison
from forwardgrad.train.checkpoint import CheckpointWarning
from forwardgrad.train.comparison import Contender, begin, carry_on, compare, contenders_of
from forwardgrad.train.config import build_config
from forwardgrad.train.keeper import Keeper
from forwardgrad.train.loop import step_cost
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Cost, Record, read_record
from forwardgrad.train.report import Silence
from forwardgrad.train.tasks.classification import mlp
from forwardgrad.train.tasks.digits import Digits

SPLITS = Digits().load()

# Imports what is heavy once, and is then forked for every command: real processes, which die of real signals.
SERVER = """
import json, os, sys
import sklearn.datasets, torch._dynamo  # the first optimizer imports the second one
import forwardgrad.train.picture, forwardgrad.train.report, forwardgrad.train.tasks.digits, forwardgrad.train.vacancy
from forwardgrad.cli import main
for line in sys.stdin:
    arguments, errors = json.loads(line)
    if (pid := os.fork()) == 0:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["forwardgrad", *arguments]
        main()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Server:
    """Runs `forwardgrad` in processes of their own, one after the other.

    The parent of all is this interpreter, warmed up, so that a process starts in milliseconds.
    """

    def __init__(self, errors: Path) -> None:
        self.errors, self.ended = errors, threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *arguments: object) -> None:
        self.ended = threading.Event()
        self.process.stdin.write(json.dumps([[*map(str, arguments), "--quiet"], str(self.errors)]) + "\n")
        self.process.stdin.flush()
        self.pid = int(self.process.stdout.readline())
        threading.Thread(target=self._wait, args=(self.ended,), daemon=True).start()

    def _wait(self, ended: threading.Event) -> None:
        self.returncode = int(self.process.stdout.readline())
        ended.set()

    def kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> int:
        assert self.ended.wait(300)  # against a hang alone
        return self.returncode

    def reached(self, folder: Path, step: int) -> bool:
        """Waits for a checkpoint of that step or later; False where the process ends before."""
        while not self.ended.is_set():
            found = [int(path.stem[-9:]) for path in (folder / "checkpoints").glob("*-step*.safetensors")]
            if max(found, default=0) >= step:
                return True
            time.sleep(0.002)
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server") / "stderr")
    yield server
    server.kill(signal.SIGKILL) if not server.ended.is_set() else None
    server.process.stdin.close()
    server.process.kill()
    server.process.wait()
    server.process.stdout.close()


def contenders(*trees: dict, **shared) -> list[Contender]:
    small = {"steps": 24, "evaluations": 4, "checkpoints": {"every": 5}}
    return [Contender(str(place), build_config(small | shared | tree)) for place, tree in enumerate(trees)]


def outcome(record: Record) -> list[object]:
    """All that must be the same: everything but the seconds, and the bytes of a first or a second measurement."""
    runs = [run for entry in record.entries for run in entry.runs]
    curves = [tuple(replace(point, seconds=0.0) for point in run.curve) for run in runs]
    return [replace(run, cost=None, curve=curve) for run, curve in zip(runs, curves, strict=True)]


@pytest.fixture(autouse=True)
def measured_once(monkeypatch) -> None:
    monkeypatch.setattr(comparison, "step_cost", measure_once)


@cache
def cost_of(config: str) -> Cost:
    return step_cost(build_config(json.loads(config)), SPLITS)


def measure_once(config, splits) -> Cost:
    return cost_of(json.dumps({"method": config.method.model_dump(mode="json")}, sort_keys=True))


def interrupted(rows: list[Contender], folder: Path, *countdowns: int) -> Record:
    output = OutputFolder(folder).probe()
    record = begin(rows, output)
    for countdown in countdowns:
        with pytest.raises(Killed):
            carry_on(record, SPLITS, output, Killing(countdown))
        record = read_record(folder / "record.json")
    return carry_on(record, SPLITS, output, Silence())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    "method",
    [
        "backprop",
        {"name": "checkpointed", "fused": True},
        {"name": "spsa", "num_tangents": 2},
        {"name": "forward", "num_tangents": 3},
        {"name": "forward", "tangents": "gaussian"},
        {"name": "control", "num_tangents": 2},
    ],
    ids=lambda method: method if isinstance(method, str) else "-".join(map(str, method.values())),
)
def test_every_method_goes_on_bit_for_bit(tmp_path, method, momentum):
    rows = contenders({"method": method, "momentum": momentum, "lr": 0.1})
    whole = compare(rows, SPLITS, OutputFolder(tmp_path / "whole").probe(), Silence())
    # A report a step: killed in step 3 (before the first checkpoint), 12 and 23.
    assert outcome(interrupted(rows, tmp_path / "parts", 4, 13, 14)) == outcome(whole)


@pytest.mark.parametrize("method", ["forward", {"name": "checkpointed", "fused": True}], ids=["forward", "fused"])
def test_dropout_and_running_statistics_go_on_too(tmp_path, monkeypatch, method):
    def build(self, generator):
        first, last = mlp((64, 32), generator), mlp((32, 10), generator)
        return nn.Sequential(*first, nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), *last)

    monkeypatch.setattr(Digits, "build", build)
    rows = contenders({"method": method, "lr": 0.1})
    whole = compare(rows, SPLITS, OutputFolder(tmp_path / "whole").probe(), Silence())
    assert outcome(interrupted(rows, tmp_path / "parts", 4, 13, 14)) == outcome(whole)
    assert not (tmp_path / "parts" / "replay").exists()  # a replay would not see the running statistics


def test_a_comparison_with_seeds_keeps_what_had_finished(tmp_path):
    rows = contenders({"method": "backprop"}, {"method": "forward"}, seeds=[3, 1])
    whole = compare(rows, SPLITS, OutputFolder(tmp_path / "whole").probe(), Silence())
    assert outcome(interrupted(rows, tmp_path / "parts", 7, 40, 55)) == outcome(whole)
    left = sorted(path.name for path in (tmp_path / "parts" / "checkpoints").iterdir())
    assert left == [f"{row}-seed{seed}-step000000024.safetensors" for row in (0, 1) for seed in (1, 3)]


LONG = ["train", "--task", "digits", "--method", "forward", "-k", "2", "--seed", "5", "--set", "evaluations=20"]


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_processes_killed_at_random_steps_end_with_the_same_weights(tmp_path, server, kills):
    draw, step, died = random.Random(kills), 0, 0
    steps = 200 if kills == 3 else 800
    every = ["--steps", steps, "--set", "checkpoints.every=10"]
    server.start(*LONG, *every, "--out", tmp_path / "parts")
    for _ in range(kills):
        step += draw.randint(1, steps // kills)
        if server.reached(tmp_path / "parts", min(step, steps - 40)):
            time.sleep(draw.random() * 0.02)  # anywhere: in a step, or in the middle of a checkpoint
            server.kill(signal.SIGKILL)
        died += server.wait() == -signal.SIGKILL
        server.start("resume", tmp_path / "parts")
    assert server.wait() == 0, server.errors.read_text()
    assert died >= kills // 2 + 1
    parts = read_record(tmp_path / "parts" / "record.json")
    assert parts.finished
    assert outcome(parts) == outcome(uninterrupted(parts, tmp_path / "whole"))


def uninterrupted(record: Record, folder: Path) -> Record:
    """The same runs from their beginning, in this process."""
    return compare(contenders_of(record), SPLITS, OutputFolder(folder).probe(), Silence())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_and_resume_goes_on(tmp_path, server, number):
    rare = [*LONG, "--steps", 300, "--set", "checkpoints.every=300"]
    server.start(*rare, "--out", tmp_path / "parts")
    while not list((tmp_path / "parts" / "replay").glob("*")) and not server.ended.is_set():
        time.sleep(0.002)
    time.sleep(0.1)
    server.kill(number)
    assert server.wait() == 130
    errors = server.errors.read_text()
    assert f"forwardgrad resume {tmp_path}" in errors.replace("\n", "") and "Traceback" not in errors
    (saved,) = (tmp_path / "parts" / "checkpoints").iterdir()
    assert 0 < int(saved.stem[-9:]) < 300
    record = read_record(tmp_path / "parts" / "record.json")
    parts = carry_on(record, SPLITS, OutputFolder(tmp_path / "parts"), Silence())
    assert outcome(parts) == outcome(uninterrupted(parts, tmp_path / "whole"))


def half_done(folder: Path, **tree) -> tuple[Record, list[Path]]:
    """A run killed in step 17, and its checkpoints, of steps 15 and 10."""
    output = OutputFolder(folder).probe()
    record = begin(contenders({"method": "backprop"} | tree), output)
    with pytest.raises(Killed):
        carry_on(record, SPLITS, output, Killing(18))
    return record, sorted((folder / "checkpoints").iterdir(), reverse=True)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def foreign(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(3)}, path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def another_run(path: Path) -> None:
    _, (newest, _) = half_done(path.parent.parent / "other", lr=0.01)
    path.write_bytes(newest.read_bytes())


@pytest.mark.parametrize("damage", [truncate, flip, foreign, empty, another_run])
def test_a_bad_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    record, (newest, older) = half_done(tmp_path)
    assert (newest.stem[-3:], older.stem[-3:]) == ("015", "010")
    damage(newest)
    with pytest.warns(CheckpointWarning, match=newest.name):
        resumed = carry_on(record, SPLITS, OutputFolder(tmp_path), Silence())
    rows = contenders({"method": "backprop"})
    assert outcome(resumed) == outcome(compare(rows, SPLITS, OutputFolder(tmp_path / "whole").probe(), Silence()))


def test_no_good_checkpoint_is_an_error_that_names_the_folder(tmp_path):
    record, files = half_done(tmp_path)
    for path in files:
        truncate(path)
    with pytest.warns(CheckpointWarning), pytest.raises(CheckpointError, match="no good one among 2") as caught:
        carry_on(record, SPLITS, OutputFolder(tmp_path), Silence())
    assert caught.value.path == str(tmp_path / "checkpoints")


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    output = OutputFolder(tmp_path).probe()
    rows = contenders({"method": "backprop"})
    record, replace_file = begin(rows, output), OutputFolder._replace

    def fill(self, name, data):
        if "step000000015" in name:
            raise OSError(28, "No space left on device")
        return replace_file(self, name, data)

    monkeypatch.setattr(OutputFolder, "_replace", fill)
    with pytest.raises(OutputError, match="no space left"):
        carry_on(record, SPLITS, output, Silence())
    monkeypatch.undo()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"0-seed0-step0000000{step}.safetensors" for step in ("05", "10")]
    whole = compare(rows, SPLITS, OutputFolder(tmp_path / "whole").probe(), Silence())
    assert outcome(carry_on(record, SPLITS, output, Silence())) == outcome(whole)


def test_a_loss_that_is_not_finite_names_the_step_the_batch_and_the_last_good_checkpoint(tmp_path, monkeypatch):
    calls, loss = iter(range(100)), Digits.loss
    spoilt = lambda self, model, *batch: loss(self, model, *batch) * (float("nan") if next(calls) == 12 else 1)
    output = OutputFolder(tmp_path).probe()
    record = begin(contenders({"method": "backprop"}), output)
    measure_once(build_config(record.entries[0].config), SPLITS)
    monkeypatch.setattr(Digits, "loss", spoilt)
    with pytest.raises(NonFiniteError, match=r"in step 12 \(epoch 0, batch 12\).*step000000010\.safetensors"):
        carry_on(record, SPLITS, output, Silence())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    output = OutputFolder(tmp_path).probe()
    rows = contenders({"method": "backprop", "lr": 1e38, "schedule": "constant"}, checkpoints={"every": 1})
    with pytest.raises(NonFiniteError):
        carry_on(begin(rows, output), SPLITS, output, Silence())
    for path in (tmp_path / "checkpoints").iterdir():
        from safetensors.torch import load_file

        weights = {name: value for name, value in load_file(path).items() if name.startswith("model/")}
        assert weights and all(value.isfinite().all() for value in weights.values())


def test_hasty_checkpoints_are_left_out_unless_asked_for(tmp_path):
    keeper = Keeper.of(build_config({"method": "spsa"}), 0, 0, OutputFolder(tmp_path), None)
    assert keeper.marks(100) == set(range(10, 101, 10))
    assert replace(keeper, every=30).marks(100) == {30, 60, 90, 100}
    compare(contenders({"method": "backprop"}, checkpoints={}), SPLITS, OutputFolder(tmp_path).probe(), Silence())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["0-seed0-step000000024.safetensors"]


def test_a_new_run_does_not_go_on_from_an_old_one(tmp_path):
    half_done(tmp_path)
    begin(contenders({"method": "backprop"}), OutputFolder(tmp_path))
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"format": "other"}', '{"format": "forwardgrad.record/1"}'])
def test_a_folder_without_a_record_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "record.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_record(tmp_path / "record.json")
    assert caught.value.path == str(tmp_path / "record.json")


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    rows = contenders({"method": "backprop"})
    record = compare(rows, SPLITS, OutputFolder(tmp_path).probe(), Silence())
    before = (tmp_path / "record.json").read_bytes()
    again = carry_on(read_record(tmp_path / "record.json"), SPLITS, OutputFolder(tmp_path), Silence())
    assert outcome(again) == outcome(record)
    assert json.loads(before) == json.loads((tmp_path / "record.json").read_bytes())
