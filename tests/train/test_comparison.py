from __future__ import annotations

import json

import pytest

from forwardgrad.errors import NonFiniteError, OutputError
from forwardgrad.train.comparison import Contender, compare
from forwardgrad.train.config import build_config
from forwardgrad.train.demo import contenders
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.report import Silence
from forwardgrad.train.tasks.digits import Digits


def row(label: str, **tree) -> Contender:
    return Contender(label, build_config({"steps": 6, "evaluations": 2, "seeds": [0, 1]} | tree))


SPLITS = Digits().load()
ROWS = [row("exact", method="backprop"), row("estimate", method="forward")]


def test_seeds_are_paired(tmp_path):
    record = compare(ROWS, SPLITS, OutputFolder(tmp_path).probe(), Silence())
    exact, estimate = (entry.runs for entry in record.entries)
    starts = [(a.curve[0].validation_loss, b.curve[0].validation_loss) for a, b in zip(exact, estimate, strict=True)]
    assert all(a == b for a, b in starts) and starts[0] != starts[1]


def test_the_record_holds_what_is_needed_to_run_it_again(tmp_path):
    record = compare(ROWS, SPLITS, OutputFolder(tmp_path).probe(), Silence())
    saved = json.loads((tmp_path / "record.json").read_bytes())
    assert saved == json.loads(record.to_json())
    assert saved["finished"] and saved["format"] == "forwardgrad.record/1"
    assert saved["versions"]["torch"] and saved["command"]
    assert [build_config(entry["config"]) for entry in saved["entries"]] == [one.config.resolved() for one in ROWS]
    again = compare(
        [Contender("again", build_config(saved["entries"][1]["config"]))],
        SPLITS,
        OutputFolder(tmp_path),
        Silence(),
    )
    assert [run.weights for run in again.entries[0].runs] == [run["weights"] for run in saved["entries"][1]["runs"]]


class Interrupting(Silence):
    def finished(self, row_index, run):
        if row_index == 1:
            raise KeyboardInterrupt


def test_an_interruption_keeps_what_had_finished(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        compare(ROWS, SPLITS, OutputFolder(tmp_path), Interrupting())
    saved = json.loads((tmp_path / "record.json").read_bytes())
    assert [len(entry["runs"]) for entry in saved["entries"]] == [2, 1]
    assert not saved["finished"]


def test_a_run_that_diverges_keeps_what_had_finished(tmp_path):
    with pytest.raises(NonFiniteError):
        compare(
            [*ROWS, row("too fast", method="backprop", lr=1e30, steps=40)],
            SPLITS,
            OutputFolder(tmp_path),
            Silence(),
        )
    assert len(json.loads((tmp_path / "record.json").read_bytes())["entries"][0]["runs"]) == 2


def test_a_full_disk_keeps_the_last_record(tmp_path, monkeypatch):
    class Filling(OutputFolder):
        def write(self, name, data):
            if name == "record.json" and len(json.loads(data)["entries"][0]["runs"]) == 2:
                raise OutputError("saving", "no space", "free some")
            return super().write(name, data)

    with pytest.raises(OutputError):
        compare(ROWS, SPLITS, Filling(tmp_path), Silence())
    assert len(json.loads((tmp_path / "record.json").read_bytes())["entries"][0]["runs"]) == 1


def test_the_demo_gives_every_method_the_same_budget_and_seeds_and_its_rival_a_row():
    rows = contenders()
    assert len({(one.config.forwards, one.config.seeds, one.config.task) for one in rows}) == 1
    names = [one.config.method.name for one in rows]
    assert {"backprop", "checkpointed", "spsa", "forward", "control"} == set(names)
    assert [one.config.method.num_tangents for one in rows if one.config.method.name == "forward"] == [1, 16]
