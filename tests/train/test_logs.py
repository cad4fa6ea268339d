"""Logs repeat the curve: every point once, whatever was killed in between."""

from __future__ import annotations

import builtins
import json
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from killing import Killed, Killing

from forwardgrad.errors import ConfigError, MissingExtraError
from forwardgrad.train import comparison
from forwardgrad.train.comparison import Contender, begin, carry_on, compare
from forwardgrad.train.config import build_config
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Cost, read_record
from forwardgrad.train.report import Silence
from forwardgrad.train.tasks.digits import Digits

SPLITS = Digits().load()


@pytest.fixture(autouse=True)
def one_cost(monkeypatch) -> None:
    monkeypatch.setattr(comparison, "step_cost", lambda config, splits: Cost(3.0, 4096, 0))


def rows(**shared) -> list[Contender]:
    tree = {"steps": 12, "evaluations": 6, "checkpoints": {"every": 5}, "seeds": [0, 7]} | shared
    return [Contender(name, build_config(tree | {"method": name})) for name in ("forward", "backprop")]


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def points_of(record) -> list[dict]:
    return [
        {"row": row, "label": entry.label, "seed": run.seed} | asdict(point)
        for row, entry in enumerate(record.entries)
        for run in entry.runs
        for point in run.curve
    ]


def test_a_line_for_every_point_with_everything_the_point_holds(tmp_path):
    record = compare(rows(), SPLITS, OutputFolder(tmp_path).probe(), Silence())
    found = lines(tmp_path)
    assert found == points_of(record)
    assert [line["step"] for line in found[:7]] == [0, 2, 4, 6, 8, 10, 12]
    assert found[1]["slope_deviation"] > 0 and found[-1]["slope_mean"] is None  # exact methods have no slopes


@pytest.mark.parametrize("countdowns", [(4,), (9,), (20, 9)], ids=str)
def test_a_log_that_goes_on_has_no_step_twice_and_none_missing(tmp_path, countdowns):
    output, record = OutputFolder(tmp_path).probe(), begin(rows(), OutputFolder(tmp_path).probe())
    for countdown in countdowns:  # a report a step: killed before, between and behind checkpoints, and in a later run
        with pytest.raises(Killed):
            carry_on(record, SPLITS, output, Killing(countdown))
        assert lines(tmp_path)  # what happened until then can be read while the run is not finished
        with (tmp_path / "log.jsonl").open("a") as file:
            file.write('{"row": 0, "half')  # the line that was being written
        record = read_record(tmp_path / "record.json")
    finished = carry_on(record, SPLITS, output, Silence())
    assert lines(tmp_path) == points_of(finished)


def test_a_finished_run_is_logged_again_from_its_record(tmp_path):
    record = compare(rows(), SPLITS, OutputFolder(tmp_path).probe(), Silence())
    (tmp_path / "log.jsonl").unlink()
    carry_on(read_record(tmp_path / "record.json"), SPLITS, OutputFolder(tmp_path), Silence())
    assert lines(tmp_path) == points_of(record)


def test_event_files_hold_every_point_once_after_a_kill(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    asked = rows(logs={"tensorboard": True}, seeds=[3])
    output, record = OutputFolder(tmp_path).probe(), begin(asked, OutputFolder(tmp_path).probe())
    with pytest.raises(Killed):
        carry_on(record, SPLITS, output, Killing(9))
    record = carry_on(read_record(tmp_path / "record.json"), SPLITS, output, Silence())
    events = accumulator(str(tmp_path / "tensorboard" / "0-seed3")).Reload()
    curve = record.entries[0].runs[0].curve
    found = [(event.step, event.value) for event in events.Scalars("loss/validation")]
    assert found == [(point.step, pytest.approx(point.validation_loss)) for point in curve]
    assert len(events.Scalars("slopes/mean")) == len(curve) - 1
    begin(rows(), output)
    assert not list((tmp_path / "tensorboard").rglob("events*"))  # a new command has logs of its own


class FakeRun(SimpleNamespace):
    def log(self, figures, step):
        self.logged.append((step, figures))
        self.step = step

    def finish(self):
        self.finished = True


def test_wandb_hears_of_every_point_and_of_none_that_it_has(tmp_path, monkeypatch):
    runs: dict[str, FakeRun] = {}

    def init(**options):
        known = runs.get(options["id"])
        run = FakeRun(options=options, logged=known.logged if known else [], step=0, resumed=known is not None)
        run.step = run.logged[-1][0] + 1 if known else 0
        return runs.setdefault(options["id"], run) if known is None else run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    asked = rows(logs={"wandb": "trials"}, seeds=[3])
    output, record = OutputFolder(tmp_path).probe(), begin(asked, OutputFolder(tmp_path).probe())
    with pytest.raises(Killed):
        carry_on(record, SPLITS, output, Killing(9))
    record = carry_on(read_record(tmp_path / "record.json"), SPLITS, output, Silence())
    assert len(runs) == 2  # one per method and seed, also after the kill
    for run, entry in zip(runs.values(), record.entries, strict=True):
        assert [step for step, _ in run.logged] == [point.step for point in entry.runs[0].curve]
        assert run.logged[-1][1]["validation_loss"] == entry.runs[0].curve[-1].validation_loss
        assert run.options["project"] == "trials" and run.options["config"]["seed"] == 3
        assert run.finished


@pytest.mark.parametrize(("key", "value", "module"), [("tensorboard", True, "torch.utils"), ("wandb", "p", "wandb")])
def test_a_log_without_its_package_is_refused_before_anything_is_touched(tmp_path, monkeypatch, key, value, module):
    compare(rows(seeds=[0]), SPLITS, OutputFolder(tmp_path).probe(), Silence())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    importing = builtins.__import__

    def missing(name, *rest):
        if name.startswith((f"{module}.tensorboard", "wandb")):
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=rf"forwardgrad\[{key}\]") as caught:
        begin(rows(logs={key: value}), OutputFolder(tmp_path))
    assert caught.value.path == f"logs.{key}"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("tree", "near"),
    [({"logs": {"tensorbord": True}}, "`tensorboard`"), ({"probe": {"sampels": 3}}, "`samples`")],
)
def test_misspelt_keys_below_are_named(tree, near):
    with pytest.raises(ConfigError, match=near):
        build_config({"method": "forward"} | tree)
