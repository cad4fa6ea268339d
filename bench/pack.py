"""Packs what a machine with a GPU and PyTorch, but no network, lacks for `bench/gpu.sh`: wheels, in `.pack`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".pack"
LIMIT = 64 * 2**20  # bytes to carry
# What is asked for; whatever these need comes with them, but for what comes with PyTorch or is too large to carry.
WANTED = "transformers peft pytest hypothesis rich typer pydantic pyyaml safetensors filelock jinja2 psutil"
THERE = frozenset("torch numpy setuptools triton sympy networkx mpmath pip uv".split())


def needed(names: list[str]) -> set[str]:
    """These packages and all that they need here, extras left out, without what is there already."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found or name in THERE:
            continue
        found.add(name)
        asked = map(Requirement, metadata.requires(name) or [])
        waiting += [canonicalize_name(r.name) for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def pins() -> dict[str, str]:
    """Name -> version, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split()[0].split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def packed(folder: Path) -> dict[str, str]:
    """Name -> version of the wheels in a folder."""
    pairs = [path.name.split("-")[:2] for path in sorted(folder.glob("*.whl"))]
    return {canonicalize_name(name): version for name, version in pairs}


def size(folder: Path, limit: int = LIMIT) -> int:
    """Bytes of all files of a folder.

    Raises:
        SystemExit: more than the limit; it names the largest.
    """
    files = sorted((path.stat().st_size, path.name) for path in folder.iterdir())
    total = sum(count for count, _ in files)
    if total > limit:
        largest = ", ".join(f"{name} {count / 2**20:.1f} MiB" for count, name in files[:-4:-1])
        raise SystemExit(f"packed {total / 2**20:.1f} MiB, more than {limit / 2**20:.0f} MiB; the largest: {largest}")
    return total


def fetch(names: set[str], folder: Path, python: str) -> None:
    """Wheels alone, at the pinned versions, for a Python of that version on Linux and x86-64; this project's too."""
    shutil.rmtree(folder, ignore_errors=True)
    known = pins()
    wheels = [f"{name}=={known[name]}" if name in known else name for name in sorted(names)]
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (17, 28, 34)] + ["manylinux2014_x86_64", "any"]
    flags = [flag for platform in platforms for flag in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", python, "--dest", str(folder), *flags, *wheels]
    subprocess.run(command, check=True)
    own = ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", *own], check=True)  # PyTorch stays out of it


def pack(python: Annotated[str, typer.Option(help="The version of Python there.")] = "3.11") -> None:
    """Fetches the wheels and checks what there is to carry."""
    fetch(needed(WANTED.split()), FOLDER, python)
    count, total = len(packed(FOLDER)), size(FOLDER) / 2**20
    print(f"{count} wheels, {total:.1f} MiB, in {FOLDER.name}/. Carry it with the tree, and there:")
    print("    bash bench/gpu.sh OUT")


if __name__ == "__main__":
    typer.run(pack)
