"""Fair comparisons: equal budgets, equal tuning, paired seeds; killed anywhere, they end as if they had not been."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
from killing import Killed, Killing
from rich.console import Console

from forwardgrad.errors import UnsupportedError
from forwardgrad.train import comparison
from forwardgrad.train.comparison import carry_on
from forwardgrad.train.config import build_config
from forwardgrad.train.loop import step_cost, step_seconds
from forwardgrad.train.methods import Control
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Cost, Record, read_record
from forwardgrad.train.report import Silence
from forwardgrad.train.study import fit, prepare
from forwardgrad.train.study.config import StudyConfig, read_study
from forwardgrad.train.study.document import document
from forwardgrad.train.study.fit import peak_bytes, with_batch
from forwardgrad.train.study.plan import begin_study
from forwardgrad.train.study.standings import standings
from forwardgrad.train.study.table import standings_table
from forwardgrad.train.tasks.digits import Digits

SPLITS = Digits().load()
EXACT = ["backprop", "checkpointed", "checkpointed fused"]
SMALL = {
    "methods": "forward:2",
    "forwards": 40,
    "evaluations": 2,
    "seeds": [0, 1],
    "tuning": {"trials": 2, "fraction": 0.5, "span": 2},
}


@cache
def cost_of(config: str) -> Cost:
    return step_cost(build_config(json.loads(config)), SPLITS)


@pytest.fixture
def measured_once(monkeypatch) -> None:
    """Peaks may differ a little from one measurement to the next, and measuring takes most of the time here."""

    def once(config, splits) -> Cost:
        return cost_of(json.dumps({"method": config.method.model_dump(mode="json")}))

    monkeypatch.setattr(prepare, "step_cost", once)
    monkeypatch.setattr(comparison, "step_cost", once)


def study(**tree) -> StudyConfig:
    return read_study(None, SMALL | tree)


def run(config: StudyConfig, folder: Path, *countdowns: int) -> Record:
    output = OutputFolder(folder).probe()
    record = begin_study(config, output)
    for countdown in countdowns:
        with pytest.raises(Killed):
            carry_on(record, SPLITS, output, Killing(countdown))
        record = read_record(folder / "record.json")
    return carry_on(record, SPLITS, output, Silence())


def outcome(record: Record) -> list[object]:
    """All that must be the same: everything but the seconds."""
    rows = []
    for entry in record.entries:
        curves = [tuple(replace(point, seconds=0.0) for point in run.curve) for run in entry.runs]
        runs = [replace(run, cost=None, curve=curve) for run, curve in zip(entry.runs, curves, strict=True)]
        rows.append((entry.label, entry.config["lr"], entry.trials, entry.failure, runs))
    return rows


def test_budget_tuning_and_seeds_are_equal_and_the_rivals_are_there(tmp_path, measured_once):
    record = run(study(methods="forward:2,spsa"), tmp_path)
    assert [entry.label for entry in record.entries] == [*EXACT, "forward K=2", "spsa K=1"]
    assert [len(entry.trials) for entry in record.entries] == [2, 0, 0, 2, 2]  # one gradient, one search
    assert len({entry.config["lr"] for entry in record.entries[:3]}) == 1
    for entry in record.entries:
        cost = entry.cost.forward_passes
        assert all(40 - cost < run.curve[-1].forwards <= 40 for run in entry.runs)
        assert [run.seed for run in entry.runs] == [0, 1]
    starts = [[run.curve[0].validation_loss for run in entry.runs] for entry in record.entries]
    assert all(start == starts[0] for start in starts)


def test_the_rate_that_did_best_on_validation_is_taken(tmp_path, measured_once):
    config = study(tuning={"trials": 5, "fraction": 1, "span": 1e36}, seeds=[0])
    entry = run(config, tmp_path).entries[0]
    assert [trial.lr for trial in entry.trials] == pytest.approx([0.3, 3e-19, 3e17, 3e-37, 3e35])
    assert entry.config["lr"] == max(entry.trials, key=lambda trial: trial.rank).lr == pytest.approx(0.3)
    assert any(trial.loss is None for trial in entry.trials)  # too fast: it diverges, and counts as worst


def test_a_comparison_that_was_killed_ends_the_same(tmp_path, measured_once):
    config = study(tuning={"trials": 6, "fraction": 0.5}, seeds=[0], checkpoints={"every": 3})
    whole = outcome(run(config, tmp_path / "whole"))
    # Killed in the first trial; in later ones, which optuna chose; in the runs.
    for place, countdowns in enumerate([(3,), (60, 30), (150, 40, 25)]):
        assert outcome(run(config, tmp_path / str(place), *countdowns)) == whole


class Interrupted(Silence):
    """Presses Ctrl-C in the first trial."""

    def trying(self, row, trial, trials, now) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_a_trial_stops_before_its_end(tmp_path, measured_once):
    output = OutputFolder(tmp_path).probe()
    record = begin_study(study(forwards=400), output)
    with pytest.raises(KeyboardInterrupt):
        carry_on(record, SPLITS, output, Interrupted())
    assert read_record(tmp_path / "record.json").entries[0].cost and not record.entries[0].trials


def test_real_processes_killed_in_a_trial_and_stopped_in_a_run_end_the_same(tmp_path):
    folder = tmp_path / "parts"
    arguments = ["compare", "--methods", "forward:2", "--forwards", "200", "--seed", "0", "--trials", "2"]
    process = start(*arguments, "--set", "tuning.fraction=1", "--set", "checkpoints.every=20", "--out", folder)
    for number, stage, code in ((signal.SIGKILL, "trials", -9), (signal.SIGINT, "runs", 130)):
        while process.poll() is None and not reached(folder, stage):
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        process = start("resume", folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    parts = read_record(folder / "record.json")
    output = OutputFolder(tmp_path / "whole").probe()
    whole = begin_study(StudyConfig.model_validate(parts.study), output)
    for entry, measured in zip(whole.entries, parts.entries, strict=True):
        entry.cost = measured.cost
    assert outcome(carry_on(whole, SPLITS, output, Silence())) == outcome(parts)


def reached(folder: Path, stage: str) -> bool:
    record = folder / "record.json"
    return record.exists() and bool(json.loads(record.read_bytes())["entries"][0][stage])


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "forwardgrad", *map(str, arguments), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("trials", [0, 2])
def test_a_method_that_diverges_is_a_row_and_does_not_end_the_others(tmp_path, measured_once, trials):
    wild = {"name": "forward", "num_tangents": 2, "scale": 1e30}
    tuning = {"trials": trials, "fraction": 1}
    record = run(study(methods=[wild, "spsa"], tuning=tuning, evaluations=20), tmp_path)
    *exact, failed, spsa = standings(record)
    assert failed.failure.short == "diverged" and failed.summary is None
    assert ("raise tuning.span" if trials else "lower the learning rate") in failed.failure.sentence
    assert record.finished and spsa.summary and all(row.summary for row in exact)
    assert "diverged" in shown(record, 80)


def test_a_method_that_cannot_run_is_a_row_too(tmp_path, measured_once, monkeypatch):
    def refuse(self, model):
        raise UnsupportedError("control needs a rule for every operation", "none for this one", "write it")

    monkeypatch.setattr(Control, "build", refuse)
    *others, refused = standings(run(study(methods="control", seeds=[0], tuning={"trials": 1}), tmp_path))
    assert refused.failure.short == "cannot run" and "write it" in refused.failure.sentence
    assert all(row.summary for row in others)


def test_under_a_peak_every_method_gets_the_batch_that_fits(tmp_path, measured_once, monkeypatch):
    per_sample = {"backprop": 5, "checkpointed": 3, "forward": 101}
    peak = lambda config, splits: per_sample[config.method.name] * config.task.batch_size
    monkeypatch.setattr(fit, "peak_bytes", peak)
    record = run(study(peak=100, forwards=10, seeds=[0], tuning={"trials": 1}), tmp_path)
    rows = standings(record)
    assert [row.failure.short if row.failure else None for row in rows] == [None, None, None, "does not fit"]
    assert [row.batch_size for row in rows] == [20, 32, 32, 64]
    assert [row.trials for row in rows] == [1, 1, 0, 0]  # at another batch the exact methods tune for themselves
    assert "does not fit" in shown(record, 80) and "found 101 bytes" in shown(record, 80)


def test_passes_are_counted_in_those_of_the_tasks_own_batch_and_peaks_grow_with_it():
    config = build_config({"method": "backprop"})
    own, quarter = cost_of('{"method": "backprop"}'), step_cost(with_batch(config, 16), SPLITS)
    assert quarter.forward_passes == pytest.approx(own.forward_passes / 4, rel=0.1)
    assert peak_bytes(with_batch(config, 16), SPLITS) < own.peak_bytes


def test_seconds_become_steps_that_are_recorded(tmp_path, measured_once, monkeypatch):
    cost = lambda config, splits: replace(cost_of(json.dumps({"method": "backprop"})), seconds=0.004)
    monkeypatch.setattr(prepare, "step_cost", cost)
    times = iter([0.003, 0.01, 0.01, 0.01] + [0.01] * 4)  # rounds in which backprop was faster once
    monkeypatch.setattr(prepare, "step_seconds", lambda config, splits: next(times))
    config = study(seconds=0.12, forwards=None, seeds=[0], tuning={"trials": 1, "fraction": 0.5})
    record = run(config, tmp_path, 40)
    assert [entry.runs[0].curve[-1].step for entry in record.entries] == [40, 30, 30, 30]
    assert [entry.cost.seconds for entry in record.entries] == [0.003, 0.004, 0.004, 0.004]


def test_a_training_run_takes_seconds_too():
    config = build_config({"method": "backprop", "seconds": 1.0})
    assert step_seconds(config, SPLITS) > 0
    assert step_cost(config, SPLITS).seconds


def test_without_a_budget_everyone_gets_what_backprop_spends(tmp_path, measured_once, monkeypatch):
    monkeypatch.setattr(Digits, "epochs", 1)
    record = run(study(forwards=None, seeds=[0], tuning={"trials": 0}), tmp_path)
    backprop, *others = record.entries
    assert backprop.runs[0].curve[-1].step == 18  # batches of 64 in 1,197 samples
    assert {entry.config["forwards"] for entry in others} == {18 * backprop.cost.forward_passes}


def shown(record: Record, width: int) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(standings_table(record, width))
    return " ".join(console.export_text().split())


def test_the_rows_hold_paired_differences_and_are_computed_from_the_record(tmp_path, measured_once):
    record = run(study(), tmp_path)
    rows = {row.label: row for row in standings(record)}
    exact, ours = ([run.test_accuracy for run in record.entries[place].runs] for place in (0, 3))
    differences = [a - b for a, b in zip(ours, exact, strict=True)]
    assert rows["forward K=2"].difference.mean == pytest.approx(sum(differences) / 2)
    assert rows["forward K=2"].difference.deviation == pytest.approx(abs(differences[0] - differences[1]) / 2**0.5)
    assert (rows["backprop"].difference.mean, rows["backprop"].multiple.times) == (0, 1)
    assert rows["checkpointed"].lr == record.entries[0].config["lr"]
    printed = json.loads(document(record))
    assert "standings" not in json.loads((tmp_path / "record.json").read_bytes())
    assert printed["standings"][3]["difference"]["mean"] == rows["forward K=2"].difference.mean


def test_a_known_rate_is_not_tuned_and_the_table_says_so(tmp_path, measured_once):
    record = run(study(rates={"forward:2": 3.0}), tmp_path)
    assert [(len(entry.trials), entry.config["lr"] == 3.0) for entry in record.entries] == [
        (2, False), (0, False), (0, False), (0, True)
    ]  # fmt: skip
    assert "given, not tuned: forward K=2. Learning rates: 2 trials each" in shown(record, 130)


@pytest.mark.parametrize(("width", "tables"), [(80, 2), (130, 1)])
def test_the_table_fits_the_terminal(tmp_path, measured_once, width, tables):
    record = run(study(tuning={"trials": 0}), tmp_path)
    console = Console(width=width, record=True, file=StringIO())
    console.print(standings_table(record, width))
    text = console.export_text()
    assert sum(line.startswith("method") for line in text.splitlines()) == tables
    assert "…" not in text and all(len(line) <= width for line in text.splitlines())
    assert all(word in text for word in (*EXACT, "backprop's", "learning", "tape", "40 forward passes each"))
