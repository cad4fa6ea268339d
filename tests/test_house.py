"""The rules of the house that no linter holds: light imports, in one direction, and files of one subject."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src" / "forwardgrad").rglob("*.py"))


def modules_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after a statement."""
    show = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", f"{statement}\n{show}"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_the_library_imports_only_what_it_needs() -> None:
    heavy = {"flwr", "matplotlib", "peft", "pydantic", "rich", "scipy", "sklearn", "transformers", "typer"}
    assert not heavy & modules_after("import forwardgrad")


def test_public_names_mean_the_same_whatever_was_imported() -> None:
    """A module named like a function would take its place in the package as soon as someone imports it."""
    statement = (
        "import importlib, pkgutil, types\n"
        "import forwardgrad as fg\n"
        "for module in pkgutil.iter_modules(fg.__path__):\n"
        "    importlib.import_module(f'forwardgrad.{module.name}') if module.name != '__main__' else None\n"
        "taken = [n for n in fg.__all__ if isinstance(getattr(fg, n), types.ModuleType)]\n"
        "assert set(taken) <= {'blackbox', 'errors', 'exact', 'federated', 'layers', 'testing', 'wall_model'}, taken"
    )
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_does_not_wait_for_torch() -> None:
    statement = (
        "import contextlib, io, sys\n"
        "sys.argv = ['forwardgrad', '--help']\n"
        "from forwardgrad.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main()"
    )
    assert "torch" not in modules_after(statement)


def test_imports_go_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--config", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_a_file_has_one_subject(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 500, "split it by subject"
    assert path.stem not in {"common", "helpers", "misc", "utils"}, "name it after its subject"
