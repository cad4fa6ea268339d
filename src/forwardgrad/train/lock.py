"""One process at a time in a run folder: two that write checkpoints of one run would each ruin the other's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from forwardgrad.errors import OutputError
from forwardgrad.train.output import OutputFolder

NAME = ".lock"


@contextmanager
def held(output: OutputFolder) -> Iterator[None]:
    """Inside, no other process holds the folder; a process that already does may enter again.

    The lock is the operating system's: it goes with its process, however that ends. Its empty file stays.

    Args:
        output: a folder that exists.

    Raises:
        OutputError: another process holds it, or no lock can be made there.
    """
    lock = FileLock(output.path / NAME, is_singleton=True, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        needs, found = "a run folder needs one process at a time", "another one that writes to it now"
        cure = "wait for it or stop it, or choose another folder with --out"
        raise OutputError(needs, found, cure, path=str(output.path)) from error
    except OSError as error:
        raise output.refusal(error) from error
    try:
        yield
    finally:
        lock.release()
