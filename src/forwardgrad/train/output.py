"""A folder for results: tried before training starts, written so that nothing saved earlier is lost."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from forwardgrad.errors import OutputError

# Room for one record and one picture: a disk with less is called full before training, not after it.
PROBE_BYTES = 1 << 20
_UNFINISHED = ".part"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class OutputFolder:
    """Where a command leaves its record and pictures.

    Args:
        path: the folder; created, with its parents, by `probe`.
    """

    path: Path

    def probe(self) -> OutputFolder:
        """Makes the folder and writes, syncs and removes a file in it; returns itself.

        Raises:
            OutputError: the folder cannot be made or written to, or there is no room in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._replace(".probe", b"\0" * PROBE_BYTES)
            (self.path / ".probe").unlink(missing_ok=True)  # another process may try the folder too
        except OSError as error:
            raise self.refusal(error) from error
        return self

    def ready(self) -> OutputFolder:
        """Makes the folder, and removes what a killed writer left half-written in it; returns itself.

        Raises:
            OutputError: the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.refusal(error) from error
        self.sweep()
        return self

    def sweep(self) -> None:
        """Removes what a writer left half-written when it was killed."""
        for path in self.path.glob(f".*{_UNFINISHED}"):
            with suppress(OSError):
                path.unlink()

    def write(self, name: str, data: bytes) -> Path:
        """Writes the file `name` all at once: readers see the old file or the new one, never a part.

        Args:
            name: file name inside the folder.
            data: the whole content.

        Raises:
            OutputError: the write failed; the file that stood there before is untouched.
        """
        try:
            return self._replace(name, data)
        except OSError as error:
            raise self.refusal(error) from error

    def _replace(self, name: str, data: bytes) -> Path:
        # The temporary lies in the same folder, since a rename is atomic only within one file system.
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=_UNFINISHED, dir=self.path)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            target = self.path / name
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        self._sync_folder()
        return target

    def _sync_folder(self) -> None:
        # The rename itself reaches the disk only with its folder. Not every platform lets a folder be opened.
        with suppress(OSError):
            folder = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def refusal(self, error: OSError) -> OutputError:
        """What the operating system said, as a sentence with its cure."""
        if error.errno in _FULL:
            found, cure = "no space left on its disk", "free some space, or choose another folder with --out"
        elif error.errno in {errno.EEXIST, errno.ENOTDIR}:
            found, cure = "a file where a folder is needed", "choose another folder with --out"
        else:
            found = f"that it cannot be written to ({error.strerror or error})"
            cure = "choose a folder you may write to with --out"
        return OutputError("saving results needs a writable folder", found, cure, path=str(self.path))
