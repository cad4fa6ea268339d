"""Where a task's data comes from, and what to say where it is not there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple, Protocol

from forwardgrad.errors import DataError, MissingExtraError
from forwardgrad.train.tasks.manifest import check

DATA_VARIABLE = "FORWARDGRAD_DATA"


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forwardgrad"


class Found(NamedTuple):
    """What looking for a task's data came to.

    Args:
        needs: in words.
        place: where it was looked for; empty where nothing is needed.
        present: whether the task can be loaded.
        missing: files that are not there.
        size: bytes of what is there.
    """

    needs: str
    place: str
    present: bool
    missing: tuple[str, ...] = ()
    size: int = 0


class Source(Protocol):
    """What a task needs besides the library, and under which licence."""

    @property
    def licence(self) -> str:
        """One line."""

    def look(self) -> Found:
        """Looks without reading; never raises."""


@dataclass(frozen=True)
class Nothing:
    """A task that is computed, not loaded."""

    licence: str = "none needed"

    def look(self) -> Found:
        """Always there."""
        return Found("nothing", "", present=True)


@dataclass(frozen=True)
class Package:
    """Data that comes inside a Python package.

    Args:
        name: of the distribution.
        extra: of forwardgrad, that installs it.
        licence: one line.
    """

    name: str
    extra: str
    licence: str

    def look(self) -> Found:
        """Whether the package is installed, without importing it."""
        try:
            place = str(distribution(self.name).locate_file(""))
        except PackageNotFoundError:
            return Found(f"the package {self.name}", "installed packages", present=False, missing=(self.name,))
        return Found(f"the package {self.name}", place, present=True)

    def missing(self, task: str) -> MissingExtraError:
        """The error of a task that could not import the package."""
        cure = f"pip install forwardgrad[{self.extra}]"
        return MissingExtraError(f"task `{task}` needs {self.name}", "no such package", cure)


@dataclass(frozen=True)
class Files:
    """Files in a folder below FORWARDGRAD_DATA.

    Args:
        folder: relative to FORWARDGRAD_DATA.
        names: of the files, all needed,
        instead: or all of these.
        licence: one line.
    """

    folder: str
    names: tuple[str, ...]
    licence: str
    instead: tuple[str, ...] = ()

    def look(self) -> Found:
        """Which files are there, and how large they are."""
        folder = self.target
        missing = tuple(name for name in self.names if not (folder / name).is_file())
        names = self.names
        if missing and self.instead and all((folder / name).exists() for name in self.instead):
            missing, names = (), self.instead
        paths = [path for name in names for path in ((folder / name), *(folder / name).rglob("*"))]
        size = sum(path.stat().st_size for path in paths if path.is_file())
        if missing and not os.environ.get(DATA_VARIABLE):
            place = f"${DATA_VARIABLE}/{self.folder}, the variable unset"
            return Found(self._needs, place, present=False, missing=self.names)
        return Found(self._needs, str(folder), not missing, missing, size)

    def find(self, task: str, cure: str = "") -> Path:
        """The folder, its files those that were fetched if they were; DataError names them and where they belong.

        Args:
            task: name for the message.
            cure: what else would help; empty for nothing.
        """
        found = self.look()
        if found.present:
            check(Path(found.place), self.names, task)
            return Path(found.place)
        needs, fetch = f"task `{task}` needs {found.needs}", f", or with internet run `forwardgrad data fetch {task}`"
        if not os.environ.get(DATA_VARIABLE):
            cure = cure or f"put them into a folder `{self.folder}` and set {DATA_VARIABLE} to its parent{fetch}"
            raise DataError(needs, f"the environment variable {DATA_VARIABLE} unset", cure)
        what = f"no {', '.join(found.missing)}" if Path(found.place).is_dir() else "no such folder"
        cure = cure or f"put them there, or point {DATA_VARIABLE} at the folder that holds `{self.folder}`{fetch}"
        raise DataError(needs, what, cure, path=found.place)

    @property
    def target(self) -> Path:
        """Where the files belong: below FORWARDGRAD_DATA, or in a cache folder where that is unset."""
        return Path(os.environ.get(DATA_VARIABLE) or _cache_folder()) / self.folder

    @property
    def _needs(self) -> str:
        files = "the file" if len(self.names) == 1 else "the files"
        instead = f" (or {', '.join(self.instead)})" if self.instead else ""
        return f"{files} {', '.join(self.names)}{instead}"


@dataclass(frozen=True)
class Together:
    """Files, and a package to make something of them.

    Args:
        files: the data.
        package: the rest.
    """

    files: Files
    package: Package

    @property
    def licence(self) -> str:
        """Of both."""
        return f"{self.files.licence}; {self.package.licence}"

    def look(self) -> Found:
        """Whether both are there."""
        files, package = self.files.look(), self.package.look()
        needs = f"{files.needs}; {package.needs}"
        present, missing = files.present and package.present, files.missing + package.missing
        return Found(needs, files.place, present, missing, files.size)
