"""Running out of memory: how it is recognised, and what is said of it."""

from __future__ import annotations

import gc

import torch

from forwardgrad.errors import OutOfMemoryError
from forwardgrad.train.methods import AnyMethod, halved

_ALLOCATOR = "can't allocate memory"  # of PyTorch on a CPU, which has no exception of its own


class ShortageWarning(UserWarning):
    """Memory was short, and a run goes on with less at once."""


def is_shortage(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that no memory was left."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and _ALLOCATOR in str(error):
            return True
        error = error.__cause__
    return False


def give_back() -> None:
    """Gives memory that nobody uses any more back to the allocator: what an error has left in cycles and caches."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def shrinking(before: AnyMethod, after: AnyMethod, place: str) -> str:
    """The sentence of a `ShortageWarning`.

    Args:
        before: the method that had too little memory,
        after: and with what it goes on.
        place: where that was.
    """
    return f"Memory ran short in {place}: {_pushed(after)} at once from here on, in place of {_pushed(before)}."


def no_memory(choice: AnyMethod, found: str, last_good: str) -> OutOfMemoryError:
    """The error of a run that cannot do with less.

    Args:
        choice: the method, in the smallest chunks it has.
        found: what was short, and where.
        last_good: what is said of the last checkpoint.
    """
    tried = f" with {_pushed(choice)} at once" if hasattr(choice, "chunk_size") else ""
    tried += ", the least there is" if tried and halved(choice) is None else ""
    cure = f"use a smaller batch or model, or a method that holds less than `{choice.name}`{last_good}"
    return OutOfMemoryError("training needs memory for a step", f"{found}{tried}", cure)


def _pushed(choice: AnyMethod) -> str:
    size = getattr(choice, "chunk_size", None) or getattr(choice, "num_tangents", 1)
    return f"{size} tangent{'' if size == 1 else 's'}"
