"""The name someone probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """A cure for an unknown name, in the imperative: the nearest known one, or all of them.

    Args:
        name: what was written.
        known: what could have been written.
    """
    names = sorted(known)
    close = get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    if close:
        return f"write `{close[0]}`, the nearest known name"
    return f"choose one of {', '.join(f'`{known_name}`' for known_name in names)}"
