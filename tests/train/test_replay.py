"""Weights from keys and slopes alone: no data, no forward pass, the same bits."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from killing import Killed
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from forwardgrad.cli import app
from forwardgrad.errors import CheckpointError
from forwardgrad.train.budget import num_steps
from forwardgrad.train.checkpoint import CheckpointWarning
from forwardgrad.train.comparison import Contender, compare
from forwardgrad.train.config import build_config
from forwardgrad.train.interrupt import Stop
from forwardgrad.train.keeper import Keeper
from forwardgrad.train.loop import train_run
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Cost
from forwardgrad.train.replay import logs, replay
from forwardgrad.train.replayed import replay_row, unlogged
from forwardgrad.train.replaylog import read
from forwardgrad.train.report import Silence
from forwardgrad.train.tasks.classification import mlp
from forwardgrad.train.tasks.digits import Digits

SPLITS = Digits().load()
COST = Cost(forward_passes=3.0, peak_bytes=0, tape_bytes=0)


def trained(folder, killed_at=None, **tree):
    config = build_config({"method": "forward", "steps": 20, "checkpoints": {"every": 6}, "seeds": [3]} | tree)
    keeper = Keeper.of(config, 3, 0, OutputFolder(folder).probe(), Stop())

    def observe(now):
        if now.step == killed_at:
            raise Killed

    assert num_steps(config, SPLITS, COST) == 20
    return train_run(config, SPLITS, 3, COST, observe, keeper)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    "method",
    [
        {"name": "forward"},
        {"name": "forward", "num_tangents": 3, "combine": "project", "scale": "unbiased"},
        {"name": "forward", "num_tangents": 2, "tangents": "gaussian", "combine": "mmse"},
        {"name": "spsa", "num_tangents": 2},
    ],
    ids=lambda method: "-".join(map(str, method.values())),
)
def test_a_replay_ends_with_the_same_weights_and_meets_no_data(tmp_path, monkeypatch, method, momentum, schedule):
    run = trained(tmp_path, method=method, schedule=schedule, momentum=momentum, lr=0.1)
    for forbidden in ("load", "loss", "score"):
        monkeypatch.setattr(Digits, forbidden, None)
    before = torch.get_rng_state()
    (path,) = logs(tmp_path)
    replayed = replay(path)
    assert replayed.weights == run.weights and replayed.step == 20
    assert torch.equal(before, torch.get_rng_state())
    K = method.get("num_tangents", 1)
    assert path.stat().st_size < 1500 + 20 * (4 * K + 4)


def test_the_log_of_a_run_that_was_killed_goes_on(tmp_path):
    whole = trained(tmp_path / "whole")
    with pytest.raises(Killed):
        trained(tmp_path / "parts", killed_at=15)
    (path,) = logs(tmp_path / "parts")
    assert len(read(path).slopes) == 15
    assert trained(tmp_path / "parts").weights == replay(path).weights == whole.weights
    assert path.read_bytes() == logs(tmp_path / "whole")[0].read_bytes()


@pytest.mark.parametrize("K", [1, 3])
def test_a_last_step_cut_off_at_any_byte_is_left_out(tmp_path, K):
    trained(tmp_path, method={"name": "forward", "num_tangents": K})
    (path,) = logs(tmp_path)
    data, whole = path.read_bytes(), read(path)
    assert whole.header.stride == 4 * K + 4 and replay(path).step == 20
    for lost in range(1, whole.header.stride + 1):
        path.write_bytes(data[:-lost])
        assert torch.equal(read(path).slopes, whole.slopes[:-1])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_log_cut_off_at_any_byte_of_its_last_step_goes_on_from_the_last_whole_one(tmp_path, momentum):
    tree = {"lr": 0.1, "momentum": momentum}
    whole = trained(tmp_path / "whole", **tree)
    expected = logs(tmp_path / "whole")[0].read_bytes()
    with pytest.raises(Killed):
        trained(tmp_path / "killed", killed_at=13, **tree)  # one step after the checkpoint
    stride = read(logs(tmp_path / "killed")[0]).header.stride
    for lost in range(1, stride + 1):
        folder = shutil.copytree(tmp_path / "killed", tmp_path / f"less {lost}")
        (path,) = logs(folder)
        path.write_bytes(path.read_bytes()[:-lost])
        assert trained(folder, **tree).weights == whole.weights
        assert path.read_bytes() == expected
    assert replay(path).weights == whole.weights


def test_a_log_cut_off_in_its_first_line_is_begun_again(tmp_path):
    whole = trained(tmp_path / "whole")
    expected = logs(tmp_path / "whole")[0].read_bytes()
    with pytest.raises(Killed):
        trained(tmp_path / "parts", killed_at=2)
    (path,) = logs(tmp_path / "parts")
    path.write_bytes(path.read_bytes()[:100])
    assert trained(tmp_path / "parts").weights == whole.weights
    assert path.read_bytes() == expected


def test_a_damaged_step_ends_the_replay_before_it(tmp_path):
    trained(tmp_path)
    (path,) = logs(tmp_path)
    data = bytearray(path.read_bytes())
    data[-5 * 8] ^= 1
    path.write_bytes(bytes(data))
    assert replay(path).step == 15


def test_a_log_that_ends_before_the_checkpoint_is_given_up_and_the_run_is_not(tmp_path):
    whole = trained(tmp_path / "whole")
    with pytest.raises(Killed):
        trained(tmp_path / "parts", killed_at=15)
    (path,) = logs(tmp_path / "parts")
    path.write_bytes(path.read_bytes()[: -8 * 5])
    with pytest.warns(CheckpointWarning, match="10 of 12"):
        assert trained(tmp_path / "parts").weights == whole.weights
    assert logs(tmp_path / "parts") == []


@pytest.mark.parametrize("method", ["backprop", "checkpointed", "control"])
def test_what_slopes_do_not_decide_leaves_no_log(tmp_path, method):
    trained(tmp_path, lr=0.1, method=method)
    assert logs(tmp_path) == []


INVOKE = CliRunner().invoke
SHORT = ["--steps", "4", "--json"]


def normed(self, generator):
    first, last = mlp((64, 8), generator), mlp((8, 10), generator)
    return nn.Sequential(*first, nn.BatchNorm1d(8), nn.ReLU(), *last)


@pytest.mark.parametrize(
    ("options", "build", "reason"),
    [
        (["--method", "backprop"], None, "backprop, seed 0: no replay, since the gradient of Backprop is not decided"),
        (["--method", "control"], None, "the gradient of ControlVariate is not decided"),
        (["--method", "forward"], normed, "the model keeps `1.num_batches_tracked` and 2 other buffers, which only"),
    ],
    ids=["backprop", "control", "buffers"],
)
def test_a_folder_without_a_log_says_why(tmp_path, monkeypatch, options, build, reason):
    if build is not None:
        monkeypatch.setattr(Digits, "build", build)
    assert INVOKE(app, ["train", *options, *SHORT, "--out", str(tmp_path)]).exit_code == 0
    result = INVOKE(app, ["replay", str(tmp_path)])
    assert result.exit_code == 3 and reason in result.output and "checkpoints" in result.output


def test_rows_without_a_log_are_named_beside_those_with_one(tmp_path):
    rows = [
        Contender(name, build_config({"method": name, "steps": 4, "seeds": [0, 1], "lr": 0.1}))
        for name in ("backprop", "forward")
    ]
    compare(rows, SPLITS, OutputFolder(tmp_path).probe(), Silence())
    result = INVOKE(app, ["replay", str(tmp_path)])
    assert result.exit_code == 0
    assert "backprop, seed 0, 1: no replay" in result.stderr and "forward" not in result.stderr
    assert result.stdout.count("the record's weights, bit for bit") == 2
    logs(tmp_path)[0].unlink()
    assert unlogged(tmp_path)[1].startswith("forward, seed 0: no replay, since its log is gone")
    (tmp_path / "record.json").unlink()
    assert unlogged(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["", "{}\n", '{"format": "other"}\n', "\0" * 64, '{"format": "forwardgrad.replay/1"}\n']
)
def test_a_foreign_file_is_refused(tmp_path, text):
    path = tmp_path / "0-seed0.replay"
    path.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert caught.value.path == str(path)


def test_the_command_compares_with_the_record_and_saves_the_weights(tmp_path):
    invoke = CliRunner().invoke
    options = ["--steps", "30", "--seed", "1", "--seed", "2", "--json", "--out", str(tmp_path)]
    assert invoke(app, ["train", *options]).exit_code == 0
    result = invoke(app, ["replay", str(tmp_path), "--json", "--save", str(tmp_path / "weights")])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.output)
    assert [(row["seed"], row["step"], row["matches"]) for row in rows] == [(1, 30, True), (2, 30, True)]
    weights = load_file(tmp_path / "weights" / "0-seed1.safetensors")
    final = load_file(next((tmp_path / "checkpoints").glob("0-seed1-*")))
    assert all(torch.equal(value, final[f"model/{name}"]) for name, value in weights.items())
    assert "30 of 30 steps from" in invoke(app, ["replay", str(tmp_path)]).output

    record = json.loads((tmp_path / "record.json").read_bytes())
    record["entries"][0]["runs"][0]["weights"] = "0" * 64
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="other weights"):
        replay_row(logs(tmp_path)[0], None)
    assert invoke(app, ["replay", str(tmp_path)]).exit_code == 3
