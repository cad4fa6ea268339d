"""What is carried to a machine with a GPU, and the script that runs there: all of it that runs without one."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from bench.pack import WANTED, needed, packed, pins, size


def test_what_is_needed_comes_whole_and_without_pytorch():
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    names = needed(WANTED.split())
    assert {"transformers", "tokenizers", "peft", "accelerate", "pluggy", "pydantic-core"} <= names
    assert not names & {"torch", "numpy", "triton", "sphinx"}
    assert names <= set(pins())


def test_too_much_to_carry_is_refused_and_the_largest_are_named(tmp_path):
    (tmp_path / "Small_one-1.0-py3-none-any.whl").write_bytes(bytes(1000))
    (tmp_path / "large-2.0-py3-none-any.whl").write_bytes(bytes(3000))
    assert packed(tmp_path) == {"small-one": "1.0", "large": "2.0"}
    assert size(tmp_path, 4000) == 4000
    with pytest.raises(SystemExit, match=r"the largest: large-2\.0"):
        size(tmp_path, 3999)


def app():
    import typer

    from bench.gpu import run

    made = typer.Typer()
    made.command()(run)
    return made


def test_the_smallest_size_leaves_a_record_anywhere(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr("shutil.which", lambda name: None)  # compiling takes a minute
    options = ["--size", "2M", "--device", "cpu", "--tokens", "8", "--rounds", "1", "--tangents", "2"]
    done = CliRunner().invoke(app(), ["--out", str(tmp_path), *options])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "gpu-2M.json").read_text())
    assert record["config"]["dtype"] == "bfloat16" and record["peaks"] == {}
    assert set(record["figures"]) == {"fg.ForwardGradient, K = 2", "backprop", "checkpointed backprop"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so_and_measures_nothing(tmp_path):
    done = CliRunner().invoke(app(), ["--out", str(tmp_path / "out")])
    assert done.exit_code == 0 and "skipped: the GPU benchmark needs a CUDA device" in done.output
    assert not (tmp_path / "out").exists()
