"""`forwardgrad data fetch`: a task's files, whole and with their checksums, or one sentence that says why not."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

from forwardgrad.errors import ConfigError, DataError, MissingExtraError, nearest
from forwardgrad.train.fetchers import FETCHERS, Fetcher
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.tasks import TASKS
from forwardgrad.train.tasks.manifest import NAME, manifest
from forwardgrad.train.tasks.sources import Files


class Fetched(NamedTuple):
    """What `fetch` wrote: the files' names, their folder, and the list of their checksums."""

    names: tuple[str, ...]
    folder: Path
    manifest: Path


def fetcher_of(task: str) -> Fetcher:
    """How a task's files are fetched.

    Raises:
        ConfigError: there is no such task, or it needs no files.
    """
    if task not in TASKS:
        raise ConfigError("fetching needs a task", f"`{task}`", nearest(task, FETCHERS))
    if task not in FETCHERS:
        source = TASKS[task].source
        cure = f"put them into {source.target} by hand" if isinstance(source, Files) else "train it as it is"
        found = f"`{task}`, which needs {source.look().needs}"
        raise ConfigError("fetching needs a task whose files it can fetch", found, cure)
    return FETCHERS[task]


def fetch(task: str, fetcher: Fetcher) -> Fetched:
    """Fetches everything first, and writes then: the checksums, and each file all at once.

    So an interrupted download leaves nothing behind, and after an interrupted write the checksums do not fit.

    Args:
        task: name for messages.
        fetcher: of the task.

    Raises:
        MissingExtraError: a loader is not installed.
        DataError: there is no connection, or what came is not what was published.
        OutputError: the folder cannot be written to.
    """
    folder = fetcher.files.target
    needs = f"fetching `{task}` needs {fetcher.origin}"
    try:
        with tempfile.TemporaryDirectory() as scratch:
            contents = fetcher.load(Path(scratch))
    except ImportError as error:
        cure = "pip install forwardgrad[fetch]"
        raise MissingExtraError(needs, f"no package {error.name or error}", cure) from error
    except DataError:
        raise
    except (OSError, ValueError, BadZipFile) as error:  # no connection, no such file there, a wrong checksum
        names = ", ".join(fetcher.files.names)
        found = f"that it failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        raise DataError(needs, found, f"try again with internet, or put {names} there", path=str(folder)) from error
    output = OutputFolder(folder).probe()
    listed = output.write(NAME, manifest(contents, fetcher.origin))
    for name, content in contents.items():
        output.write(name, content)
    return Fetched(tuple(contents), folder, listed)
