"""Writes the reference of the command from the command itself, by typer's own `utils docs`."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = re.compile(r"^((?:[A-Z_]+=\S+ )?forwardgrad .*)$", re.MULTILINE)


def write(path: Path) -> None:
    """Every command with its arguments and options, as Markdown.

    Args:
        path: of the file that the page includes.
    """
    command = [sys.executable, "-m", "typer", "forwardgrad.cli", "utils", "docs", "--name", "forwardgrad"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = done.stdout.partition("\n## ")[2]  # the page has a head of its own
    text = re.sub(r"^Exit codes: .*\n\n?", "", text, flags=re.MULTILINE)  # on the page once
    # Examples in the help stand on lines of their own, and are commands.
    text = EXAMPLE.sub(r"```console\n$ \1\n```", f"## {text}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
