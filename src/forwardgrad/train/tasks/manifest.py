"""What was fetched, by its SHA-256: a file beside the data, against which they are checked whenever they are loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from forwardgrad.errors import DataError

NAME = "fetched.json"


def manifest(contents: Mapping[str, bytes], origin: str) -> bytes:
    """The content of the file.

    Args:
        contents: of the data files, by name.
        origin: where they came from.
    """
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return (json.dumps({"origin": origin, "sha256": sums}, indent=1) + "\n").encode()


def check(folder: Path, names: Iterable[str], task: str) -> None:
    """Holds the files of a folder against what was fetched; does nothing where nothing was, or for files put by hand.

    Args:
        folder: of the data.
        names: of the files that will be read; those that are not there are passed over.
        task: name for the message.

    Raises:
        DataError: a file is not the one that was fetched, or the list of what was fetched cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return
    needs, cure = f"task `{task}` needs the files that were fetched", f"run `forwardgrad data fetch {task}` again"
    try:
        sums = dict(json.loads(path.read_bytes())["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(needs, f"a damaged list of them ({error})", cure, path=str(path)) from error
    for name in names:
        if name not in sums or not (folder / name).is_file():
            continue
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sums[name]:
            raise DataError(needs, f"other bytes (SHA-256 {found[:12]}...)", cure, path=str(folder / name))
