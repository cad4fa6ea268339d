"""Tables of results come from records alone, and a task without a page, or an unfair record, stops the build."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("sphinx")
pytest.importorskip("matplotlib")

from sphinx.errors import ExtensionError

from forwardgrad.train.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "bench" / "results" / "studies" / "digits-demo.json"


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("studies")


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in TASKS:
        (folder / f"{name}.md").write_text(f"# {name}\n\n```{{include}} generated/{name}.md\n```\n")
    return folder


def saved(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "one.json").write_text(json.dumps(json.loads(RECORD.read_bytes()) | changes))
    return folder


def entries(*methods: str) -> list[dict[str, Any]]:
    return [one for one in json.loads(RECORD.read_bytes())["entries"] if one["config"]["method"]["name"] in methods]


def test_a_record_becomes_a_table_on_the_page_of_its_task(studies: ModuleType, pages: Path, tmp_path: Path) -> None:
    generated = pages / "generated"
    studies.write(pages, generated, saved(tmp_path / "studies"))
    text = (generated / "digits.md").read_text()
    accuracies = [run["test_accuracy"] for run in entries("spsa")[0]["runs"]]
    (row,) = [line for line in text.splitlines() if line.startswith("| SPSA |")]
    assert f"{100 * sum(accuracies) / len(accuracies):.1f}\N{NO-BREAK SPACE}±" in row
    assert "| checkpointed backprop |" in text
    assert "seeds 0/1/2" in text and "torch 2" in text
    assert (generated / "one.png").read_bytes().startswith(b"\x89PNG")
    assert "None recorded yet" not in text and "None recorded yet" in (generated / "sphere.md").read_text()


def test_every_task_has_a_page_with_licence_and_command(studies: ModuleType, tmp_path: Path) -> None:
    studies.write(ROOT / "docs" / "tasks", tmp_path / "generated", tmp_path / "none")
    for name, task in TASKS.items():
        text = (tmp_path / "generated" / f"{name}.md").read_text()
        assert task.source.licence in text and f"forwardgrad train --task {name} " in text


def test_a_task_without_a_page_stops_the_build(studies: ModuleType, pages: Path, tmp_path: Path) -> None:
    (pages / "mnist.md").unlink()
    with pytest.raises(ExtensionError, match=r"task `mnist` needs a page.*mnist\.md"):
        studies.write(pages, pages / "generated", tmp_path / "none")


def test_a_page_that_leaves_its_results_out_stops_the_build(studies: ModuleType, pages: Path, tmp_path: Path) -> None:
    (pages / "mnist.md").write_text("# MNIST\n")
    with pytest.raises(ExtensionError, match="no include"):
        studies.write(pages, pages / "generated", tmp_path / "none")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"finished": False}, "needs all its runs"),
        ({"entries": entries("backprop", "forward")}, "needs checkpointed backprop"),
        ({"format": "something/9"}, "something/9"),
    ],
)
def test_a_record_that_would_mislead_stops_the_build(
    studies: ModuleType, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ExtensionError, match=sentence):
        studies.read(saved(tmp_path / "studies", **changes))


def test_one_method_alone_needs_no_rival(studies: ModuleType, tmp_path: Path) -> None:
    assert list(studies.read(saved(tmp_path / "studies", entries=entries("spsa")))) == ["digits"]


def test_the_look_has_the_colours_of_the_tables() -> None:
    import matplotlib.style

    from forwardgrad.train.summary import PALETTE

    with matplotlib.style.context("forwardgrad.train.look"):
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    assert {colour.lower().strip("#") for colour in cycle} == {colour.lower().strip("#") for colour in PALETTE}
