"""Weights from keys and slopes alone: no data, no forward pass, the same bits."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from forwardgrad.cli import app
from forwardgrad.errors import CheckpointError
from forwardgrad.train.budget import num_steps
from forwardgrad.train.checkpoint import CheckpointWarning
from forwardgrad.train.config import build_config
from forwardgrad.train.interrupt import Stop
from forwardgrad.train.keeper import Keeper
from forwardgrad.train.loop import train_run
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Cost
from forwardgrad.train.replay import logs, replay
from forwardgrad.train.replayed import replay_row
from forwardgrad.train.replaylog import read
from forwardgrad.train.tasks.digits import Digits

SPLITS = Digits().load()
COST = Cost(forward_passes=3.0, peak_bytes=0, tape_bytes=0)


class Killed(BaseException):
    """What no code catches."""


def trained(folder, killed_at=None, **tree):
    config = build_config({"method": "forward", "steps": 20, "checkpoints": {"every": 6}, "seeds": [3]} | tree)
    keeper = Keeper.of(config, 3, 0, OutputFolder(folder).probe(), Stop())

    def observe(now):
        if now.step == killed_at:
            raise Killed

    assert num_steps(config, SPLITS, COST) == 20
    return train_run(config, SPLITS, 3, COST, observe, keeper)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
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
def test_a_replay_ends_with_the_same_weights_and_meets_no_data(tmp_path, monkeypatch, method, schedule):
    run = trained(tmp_path, method=method, schedule=schedule, lr=0.5)
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


@pytest.mark.parametrize("lost", [1, 4, 7, 8])
def test_a_half_written_last_step_is_left_out(tmp_path, lost):
    trained(tmp_path)
    (path,) = logs(tmp_path)
    path.write_bytes(path.read_bytes()[:-lost])
    assert replay(path).step == 19


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
    with pytest.raises(CheckpointError):
        logs(tmp_path / "parts")


@pytest.mark.parametrize("tree", [{"method": "backprop"}, {"method": "control"}, {"momentum": 0.9}])
def test_what_slopes_do_not_decide_leaves_no_log(tmp_path, tree):
    trained(tmp_path, lr=0.1, **tree)
    with pytest.raises(CheckpointError) as caught:
        logs(tmp_path)
    assert caught.value.path == str(tmp_path / "replay")


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
