"""`forwardgrad doctor`: what it is asked about, what it measures, what it advises."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import Generator, nn
from typer.testing import CliRunner

from forwardgrad.cli import app
from forwardgrad.errors import InputError
from forwardgrad.train.examination import examine
from forwardgrad.train.patient import Patient, patient

CODE = """
import torch
from torch import nn

def good():
    return nn.Linear(3, 2), lambda model, x: model(x).square().mean(), torch.ones(4, 3)

def torn():
    return nn.Linear(3, 2), lambda model, x: model(x).detach().square().mean(), torch.ones(4, 3)

def nothing():
    return nn.Linear(3, 2)

number = 3
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "my_nets"
    sys.modules.pop("my_nets", None)


def call(*arguments: str):
    return CliRunner().invoke(app, ["doctor", *arguments], env={"COLUMNS": "100", "NO_COLOR": "1"})


def deep() -> Patient:
    """Many narrow layers on a wide batch: activations outweigh weights, so that the methods' peaks lie apart."""
    generator = Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(24):
        layers += [nn.utils.skip_init(nn.Linear, 16, 16), nn.Tanh()]
        nn.init.orthogonal_(layers[-2].weight, generator=generator)
        nn.init.zeros_(layers[-2].bias)
    x = torch.randn(256, 16, generator=generator)
    return Patient("deep", nn.Sequential(*layers), lambda model, x: model(x).square().mean(), (x,))


def test_advice_is_the_first_that_fits_by_the_peaks_that_were_measured():
    seen = examine(deep())
    assert seen.report and not seen.refused
    peaks = {name: cost.peak_bytes for name, cost in seen.costs.items()}
    assert peaks["backprop"] > peaks["checkpointed"] > peaks["forward K=1"] > peaks["SPSA"]
    assert [seen.costs[name].tape_bytes for name in ("forward K=1", "forward K=8", "SPSA")] == [0, 0, 0]
    for name in ("backprop", "checkpointed", "forward K=1", "SPSA"):
        assert seen.advice(seen.weights_bytes + peaks[name]).startswith(f"Take {name}:")
    assert seen.advice(seen.weights_bytes + peaks["SPSA"] - 1).startswith("Nothing fits: SPSA holds least")


def test_looking_changes_nothing():
    one = deep()
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    random = torch.get_rng_state()
    examine(one)
    assert all(torch.equal(before[name], tensor) for name, tensor in one.model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state()) and all(p.grad is None for p in one.model.parameters())


def test_a_task_is_a_patient():
    result = call("digits", "--memory", "1GiB", "--json")
    assert result.exit_code == 0, result.output
    seen = json.loads(result.output)
    assert seen["works"] and seen["parameters"] == 4810 and seen["findings"] == []
    assert seen["error"] < 1e-3 and seen["checked_against"] == "reverse mode"
    assert seen["advice"].startswith("Take backprop")
    assert set(seen["costs"]) == {
        "backprop",
        "checkpointed",
        "checkpointed, fused",
        "forward K=1",
        "forward K=8",
        "SPSA",
    }


def test_your_own_function_is_a_patient(nets):
    result = call(f"{nets}:good")
    assert result.exit_code == 0, result.output
    assert "forward mode works here" in result.output and "8 trained parameters" in result.output


def test_a_lost_tangent_is_told_and_exit_code_6(nets):
    result = call(f"{nets}:torn")
    assert result.exit_code == 6
    assert "forward mode does not work here" in result.output and "cannot run" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digist"], "`digits`"),
        (["no_such_module:net"], "No module named"),
        (["my_nets:goof"], "`good`"),
        (["my_nets:number"], "of type int"),
        (["my_nets:nothing"], "a function that returns (Linear)"),
        (["digits", "--batch", "8"], "samples x tokens"),
        (["digits", "--memory", "much"], "200MiB"),
        (["digits", "--memory", "1.2.3MiB"], "200MiB"),
    ],
)
def test_a_name_that_stands_for_nothing_is_exit_code_2(nets, arguments, words):
    result = call(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split()) and "Traceback" not in result.output


@pytest.mark.parametrize("saved", [False, True], ids=["config alone", "with weights"])
def test_a_hugging_face_folder_is_a_patient(tmp_path, saved):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50,
        max_position_embeddings=16, num_labels=3, architectures=["BertForSequenceClassification"],
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    (model if saved else config).save_pretrained(tmp_path)
    one = patient(str(tmp_path), (2, 8), seed=5)
    inputs = one.batch[0]
    assert inputs["input_ids"].shape == (2, 8) and inputs["labels"].shape == (2,)
    same = all(torch.equal(a, b) for a, b in zip(model.parameters(), one.model.parameters(), strict=True))
    assert same == saved
    seen = examine(one)
    assert seen.report and not seen.refused
    with pytest.raises(InputError, match="17 tokens"):
        patient(str(tmp_path), (2, 17))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{}", "transformers knows"),
        ('{"model_type": "bert"}', "none"),
        ('{"model_type": "bert", "architectures": ["BertModel"]}', "whose loss is known"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused(tmp_path, config, words):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=words):
        patient(str(tmp_path), (1, 4))
