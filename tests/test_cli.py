"""The command as people meet it: exit codes, one sentence per error, help at once."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forwardgrad.cli import app
from forwardgrad.train import depth
from forwardgrad.train.record import Deeper

PYTHON = [sys.executable, "-m", "forwardgrad"]
FOLDER = {"record.json", "log.jsonl", "curves.png", "report.html", "checkpoints", "replay"}
SHORT = ["--steps", "5", "--quiet"]


def invoke(*arguments: object, **env: str):
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "100", "NO_COLOR": "1", **env})


def runs_in(folder: Path) -> list[dict]:
    """The runs that a record holds by now."""
    record = folder / "record.json"
    return json.loads(record.read_bytes())["entries"][0]["runs"] if record.exists() else []


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_help_comes_without_what_is_heavy():
    code = (
        "import sys; from forwardgrad.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
    assert all(name in shown for name in ("train", "compare", "demo", "methods", "Exit codes"))


@pytest.mark.parametrize(
    "command", ["train", "compare", "demo", "resume", "replay", "report", "methods", "doctor", "data"]
)
def test_every_command_has_help(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0 and "Usage" in result.output


def test_a_short_training_leaves_a_record_and_a_picture(tmp_path):
    result = invoke("train", "--task", "digits", "--method", "forward", "-k", 2, *SHORT, "--seed", 3, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "forward" in result.output and str(tmp_path / "curves.png") in result.output.replace("\n", "")
    record = json.loads((tmp_path / "record.json").read_bytes())
    config = record["entries"][0]["config"]
    assert (config["method"]["num_tangents"], config["seeds"], config["steps"]) == (2, [3], 5)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_the_record_and_nothing_else(tmp_path):
    result = subprocess.run(
        [*PYTHON, "train", "--method", "spsa", "--steps", "5", "--json", "--out", tmp_path],
        capture_output=True,
    )
    assert result.returncode == 0
    assert result.stdout == (tmp_path / "record.json").read_bytes()
    assert json.loads(result.stdout)["entries"][0]["label"] == "spsa"


def test_a_config_file_with_settings_on_top(tmp_path):
    (tmp_path / "run.yaml").write_text("task: digits\nmethod: {name: forward, num_tangents: 4}\nsteps: 3\n")
    result = invoke(
        "train",
        tmp_path / "run.yaml",
        "--set",
        "lr=0.25",
        "--set",
        "method.tangents=gaussian",
        "-q",
        "--out",
        tmp_path,
    )
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "record.json").read_bytes())["entries"][0]["config"]
    assert config["lr"] == 0.25
    assert (config["method"]["num_tangents"], config["method"]["tangents"]) == (4, "gaussian")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "momentun=0.9"], "`momentum`"),
        (["--set", "lr"], "key=value"),
        (["--method", "foward"], "`forward`"),
        (["--task", "mnits"], "`mnist`"),
        (["--lr", "-1"], "greater than 0"),
        (["--steps", "0"], "greater than 0"),
        (["-k", "0"], "greater than 0"),
        (["--steps", "3", "--epochs", "2"], "one unit"),
        (["nowhere.yaml"], "No such file"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(tmp_path, arguments, words):
    result = invoke("train", *arguments, "--out", tmp_path / "runs")
    assert result.exit_code == 2
    assert words in result.output and "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()


def test_missing_data_is_exit_code_3(tmp_path):
    files = {
        "mnist": "mnist/train-images-idx3-ubyte.gz", "tinyshakespeare": "lm/tinyshakespeare/input.txt.gz",
        "cifar10": "cifar10/test_jpeg.parquet", "fsdd": "audio/fsdd/fsdd_int16.npz",
    }  # fmt: skip
    for task, file in files.items():
        result = invoke("train", "--task", task, "--out", tmp_path, FORWARDGRAD_DATA=str(tmp_path))
        assert result.exit_code == 3
        folder, _, name = file.rpartition("/")
        assert name in result.output and str(tmp_path / folder) in result.output


def test_a_folder_that_is_a_file_is_exit_code_4_before_anything_is_trained(tmp_path):
    (tmp_path / "taken").write_text("mine")
    result = invoke("demo", "--out", tmp_path / "taken")
    assert result.exit_code == 4 and "--out" in result.output
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_disk_that_fills_up_is_exit_code_4_and_loses_nothing(tmp_path):
    """A file-size limit stands in for a full disk: the probe passes under it, the record does not."""
    first = subprocess.run([*PYTHON, "train", *SHORT, "--out", tmp_path], capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    before = (tmp_path / "record.json").read_bytes()
    limit = "import forwardgrad.train.output as output; output.PROBE_BYTES = 64"
    again = ["forwardgrad", "train", *SHORT, "--overwrite"]
    code = f"import sys; {limit}; from forwardgrad.cli import main; sys.argv = {again!r}"
    second = subprocess.run(
        [sys.executable, "-c", f"{code} + ['--out', {str(tmp_path)!r}]; main()"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)),
    )
    assert second.returncode == 4, second.stderr
    assert "no space left" in second.stderr and "Traceback" not in second.stderr
    assert (tmp_path / "record.json").read_bytes() == before
    assert names_in(tmp_path) == FOLDER


@pytest.mark.parametrize("left", ["record.json", "curves.png", "checkpoints", "replay"])
def test_a_folder_with_a_run_in_it_is_exit_code_4_and_left_alone(tmp_path, left):
    assert invoke("train", *SHORT, "--out", tmp_path).exit_code == 0
    for path in tmp_path.iterdir():
        if path.name != left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for command in (["train", *SHORT], ["demo", "--forwards", 50, "--seeds", 1, "--quiet"]):
        result = invoke(*command, "--out", tmp_path)
        said = result.output.replace("\n", "")
        assert result.exit_code == 4 and left in said and "--overwrite" in said
        assert (f"forwardgrad resume {tmp_path}" in said) == (left == "record.json")
        now = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
        assert now == before
    assert invoke("train", *SHORT, "--out", tmp_path, "--overwrite").exit_code == 0
    assert len(runs_in(tmp_path)) == 1


def test_files_of_other_kinds_do_no_harm(tmp_path):
    (tmp_path / "run.yaml").write_text("steps: 3\n")
    assert invoke("train", tmp_path / "run.yaml", "--quiet", "--out", tmp_path).exit_code == 0
    assert (tmp_path / "run.yaml").read_text() == "steps: 3\n"


def test_the_demo_replaces_its_own_finished_record_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(depth, "memory_by_depth", lambda config: [Deeper(1, 1, 1)])  # which takes half a minute
    command = ["demo", "--forwards", 20, "--seeds", 1, "--quiet", "--out", tmp_path]
    assert invoke(*command).exit_code == 0
    before = json.loads((tmp_path / "record.json").read_bytes())
    assert invoke(*command).exit_code == 0
    record = json.loads((tmp_path / "record.json").read_bytes())
    weights = lambda tree: [run["weights"] for entry in tree["entries"] for run in entry["runs"]]
    assert weights(record) == weights(before)
    (tmp_path / "record.json").write_text(json.dumps(record | {"finished": False}))
    assert invoke(*command).exit_code == 4
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert invoke("demo", "--forwards", 30, *command[3:]).exit_code == 4
    assert invoke("demo", "--forwards", 30, *command[3:], "--overwrite").exit_code == 0


def test_a_folder_that_another_process_writes_to_is_exit_code_4(tmp_path):
    assert invoke("train", *SHORT, "--out", tmp_path).exit_code == 0
    holding = "import sys, filelock, time\nwith filelock.FileLock(sys.argv[1]): print(flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", holding, tmp_path / ".lock"], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        for command in (["resume", tmp_path, "--quiet"], ["train", *SHORT, "--out", tmp_path, "--overwrite"]):
            result = invoke(*command)
            assert result.exit_code == 4 and "one process at a time" in result.output
    finally:
        other.kill()
        other.communicate()
    assert invoke("resume", tmp_path, "--quiet").exit_code == 0


def test_training_that_blows_up_is_exit_code_5(tmp_path):
    result = invoke("train", "--method", "backprop", "--lr", 1e30, "--steps", 40, "-q", "--out", tmp_path)
    assert result.exit_code == 5 and "finite" in result.output


def test_ctrl_c_is_exit_code_130_and_keeps_what_had_finished(tmp_path):
    arguments = ["train", "--method", "backprop", "--steps", "200", "--quiet", "--out", str(tmp_path)]
    seeds = [word for seed in range(5000) for word in ("--seed", str(seed))]
    process = subprocess.Popen([*PYTHON, *arguments, *seeds], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not runs_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted" in errors and "Traceback" not in errors
    assert runs_in(tmp_path)


@pytest.mark.parametrize("command", ["resume", "replay", "report"])
def test_a_folder_without_a_run_is_exit_code_3(tmp_path, command):
    result = invoke(command, tmp_path)
    assert result.exit_code == 3 and str(tmp_path) in result.output.replace("\n", "")


def test_a_report_is_one_page_wherever_it_is_wanted(tmp_path):
    arguments = ["train", "--method", "forward", *SHORT, "--set", "probe.samples=8", "--out", tmp_path / "run"]
    trained = invoke(*arguments)
    assert trained.exit_code == 0, trained.output
    assert str(tmp_path / "run" / "report.html") in trained.output.replace("\n", "")
    (tmp_path / "run" / "report.html").unlink()
    result = invoke("report", tmp_path / "run", tmp_path / "run", "--out", tmp_path / "there" / "both.html")
    assert result.exit_code == 0 and result.output.replace("\n", "") == str(tmp_path / "there" / "both.html")
    page = (tmp_path / "there" / "both.html").read_text()
    assert page.startswith("<!doctype html>") and 'data-chart="cosine"' in page
    assert invoke("report", tmp_path / "run").exit_code == 0
    assert (tmp_path / "run" / "report.html").exists()


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|38|9[0-7])[;m]")


@pytest.mark.parametrize(
    ("options", "env", "coloured"),
    [([], {}, True), (["--no-color"], {}, False), ([], {"NO_COLOR": "1"}, False)],
    ids=["as it is", "option", "variable"],
)
def test_colours_can_be_switched_off(tmp_path, options, env, coloured):
    clean = {"NO_COLOR": None, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "100"} | env
    for arguments in (["data", "list"], ["replay", str(tmp_path)]):
        result = CliRunner().invoke(app, [*options, *arguments], env=clean, color=True)
        assert bool(COLOUR.search(result.output)) == coloured, result.output


def test_the_shell_completes_commands_tasks_and_methods_without_torch():
    from forwardgrad.cli import names
    from forwardgrad.train.methods import CHOICES
    from forwardgrad.train.tasks import TASKS

    assert set(names.TASKS) == set(TASKS)
    assert set(names.METHODS) == {choice.model_fields["name"].default for choice in CHOICES}
    code = "import sys; from forwardgrad.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    for words, found in {"forwardgrad rep": {"replay", "report"}, "forwardgrad train --method f": {"forward"},
                         "forwardgrad train --task sp": {"sphere"}}.items():  # fmt: skip
        env = os.environ | {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        env["_FORWARDGRAD_COMPLETE"] = "complete_bash"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
        *completed, torch_loaded = done.stdout.split()
        assert (set(completed), torch_loaded) == (found, "False"), done


def test_methods_lists_every_passport():
    result = invoke("methods", "--json")
    table = json.loads(result.output)
    assert {"backprop", "checkpointed", "spsa", "forward", "control"} <= set(table)
    assert all({"knows", "cost", "memory", "bias", "variance"} <= set(lines) for lines in table.values())
    assert "forward" in invoke("methods").output


def test_data_list_says_what_is_there_and_what_is_not(tmp_path):
    folder = tmp_path / "lm" / "tinyshakespeare"
    folder.mkdir(parents=True)
    (folder / "input.txt").write_bytes(b"x" * 3000)
    result = invoke("data", "list", "--json", FORWARDGRAD_DATA=str(tmp_path))
    assert result.exit_code == 0
    tasks = {entry["task"]: entry for entry in json.loads(result.output)}
    assert {"digits", "mnist", "fashion-mnist", "cifar10", "tinyshakespeare", "fsdd", "beale"} <= set(tasks)
    assert all(entry["licence"] and entry["needs"] for entry in tasks.values())
    assert tasks["beale"]["present"] and tasks["digits"]["present"] and not tasks["mnist"]["present"]
    assert (tasks["tinyshakespeare"]["present"], tasks["tinyshakespeare"]["size"]) == (True, 3000)
    assert len(tasks["mnist"]["missing"]) == 4 and tasks["mnist"]["place"] == str(tmp_path / "mnist")
    shown = invoke("data", "list", FORWARDGRAD_DATA="")
    assert shown.exit_code == 0 and "the variable unset" in shown.output and "CC BY-SA" in shown.output


@pytest.mark.slow
def test_a_small_demo_ends_with_a_table_a_record_and_a_picture(tmp_path):
    result = invoke("demo", "--forwards", 200, "--seeds", 2, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    for words in ("backprop", "checkpointed", "SPSA", "K=1", "K=16", "control variate", "2 seeds"):
        assert words in result.output
    assert names_in(tmp_path) == FOLDER


@pytest.mark.slow
@pytest.mark.parametrize("task", ["mnist", "fashion-mnist"])
def test_real_images_train(tmp_path, task, data_folder: Path):
    result = invoke(
        "train", "--task", task, "--method", "backprop", "--steps", 30, "--lr", 0.1, "-q", "--out", tmp_path,
        FORWARDGRAD_DATA=str(data_folder),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "record.json").read_bytes())["entries"][0]["runs"][0]["test_accuracy"] > 0.5


TINY = ["--forwards", "12", "--seed", "0", "--set", "evaluations=1", "--set", "tuning.fraction=1", "--trials", "1"]


def test_a_comparison_prints_its_rows_beside_the_record(tmp_path):
    shown = invoke("compare", "--methods", "forward:2", *TINY, "--json", "--out", tmp_path)
    assert shown.exit_code == 0, shown.output
    document, record = json.loads(shown.stdout), json.loads((tmp_path / "record.json").read_bytes())
    rows = document.pop("standings")
    assert document == record and (tmp_path / "curves.png").exists()
    assert [row["label"] for row in rows] == ["backprop", "checkpointed", "checkpointed fused", "forward K=2"]
    again = invoke("resume", tmp_path, "--quiet")
    assert again.exit_code == 0 and "12 forward passes each" in again.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "foward:4"], "`forward`"),
        (["--set", "tuning.trails=3"], "`trials`"),
        (["--seconds", "1", "--forwards", "10"], "one unit"),
        (["--peak", "much"], "200MiB"),
        (["--seed", "100"], "not compared"),
    ],
)
def test_an_unfair_or_misspelt_comparison_is_refused_before_it_begins(tmp_path, arguments, words):
    result = invoke("compare", *arguments, "--out", tmp_path / "runs")
    assert result.exit_code == 2
    assert words in result.output and "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()
