"""The docs build without a warning, name everything public, and their Python blocks run."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock

import forwardgrad as fg
from forwardgrad import blackbox, exact, fixedpoint, methods
from forwardgrad.cli import app
from forwardgrad.cli.shared import CODES_HELP
from forwardgrad.train import comparison, config, record
from forwardgrad.train.tasks import task
from forwardgrad.train.tasks.profiles import SOURCE

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md"), *(DOCS / "tasks").glob("*.md")])
# A block marked python, or an HTML comment that begins with "python": the set-up that readers need not see.
PYTHON = re.compile(r"^```python\n(.*?)^```|^<!-- python\n(.*?)^-->", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Built once, whatever the number of test processes: the gallery is trained in it, and written beside the pages."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    with FileLock(f"{folder}.lock"):
        if not (folder / "objects.inv").exists():
            paths = [str(DOCS), str(folder)]
            done = subprocess.run([*command, *paths], capture_output=True, text=True, check=False)
            if done.returncode:
                (folder / "objects.inv").unlink(missing_ok=True)  # the next test fails too, for the same reason
            assert done.returncode == 0, done.stdout + done.stderr
    return folder


def documented(site: Path) -> set[str]:
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, target: target)
    return {name for kind in inventory if kind.startswith("py:") for name in inventory[kind]}


def test_every_public_name_is_documented(site: Path) -> None:
    names = {name.rpartition(".")[2] for name in documented(site)}
    missing = [name for name in fg.__all__ if not name.startswith("__") and name not in names]
    assert not missing, f"in forwardgrad.__all__ but on no page: {missing}"


@pytest.mark.parametrize("module", [config, record, task, comparison], ids=lambda module: module.__name__)
def test_what_a_comparison_is_made_of_is_documented(site: Path, module: ModuleType) -> None:
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    wanted = {f"{module.__name__}.{name}" for name in own if not name.startswith("_")}
    assert wanted, "the module has been moved"
    assert not wanted - documented(site), "add them to docs/api-train.md"


def test_every_exit_code_and_every_command_is_on_the_page_of_the_command(site: Path) -> None:
    page = (DOCS / "cli.md").read_text() + (DOCS / "generated" / "commands.md").read_text()
    codes = re.findall(r"\b\d+\b", CODES_HELP)
    assert codes and all(f"| {code} |" in page for code in codes)
    commands = [command.callback.__name__ for command in app.registered_commands]
    assert all(f"## `forwardgrad {command}`" in page for command in [*commands, "data list"])


def test_every_script_of_the_gallery_leaves_a_picture(site: Path) -> None:
    scripts = sorted((ROOT / "examples" / "gallery").glob("*.py"))
    assert scripts
    missing = [path.stem for path in scripts if not list((site / "_images").glob(f"sphx_glr_{path.stem}_001*.png"))]
    idle = ["5_transformer"] if find_spec("peft") is None else []
    idle += [] if SOURCE.look().present else ["9_wall_model"]
    assert set(missing) <= set(idle)


def test_every_method_has_a_page_with_its_passport(site: Path) -> None:
    values = [*vars(methods).values(), *vars(blackbox).values(), *vars(exact).values(), *vars(fixedpoint).values()]
    classes = [value for value in values if isinstance(value, type) and hasattr(value, "passport")]
    assert classes
    for cls in classes:
        page = (site / "methods" / "generated" / f"{cls.__name__}.html").read_text()
        for field in ("Knows", "Cost", "Memory", "Bias", "Variance"):
            assert f"<p>{field}</p>" in page, f"{cls.__name__} has no line {field}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    names: dict[str, object] = {"__name__": "__main__"}
    for match in PYTHON.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        source = match[1] or match[2]
        exec(compile("\n" * line + source, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    # Pages of the gallery are written in the build, each from a script.
    sources = [re.sub(r"gallery/(\d\w+)\.rst$", r"../examples/gallery/\1.py", target) for target in targets]
    sources = [re.sub(r"gallery/index\.rst$", "../examples/gallery/GALLERY_HEADER.rst", source) for source in sources]
    missing = [source for source in sources if not (page.parent / source).exists()]
    assert not missing, f"{page.name} points to {missing}"
