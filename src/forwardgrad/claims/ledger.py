"""Every claim there is: one module each in `entries/`, found by being there."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

from forwardgrad.claims import entries
from forwardgrad.claims.claim import Claim
from forwardgrad.errors import InputError, nearest


def ledger() -> tuple[Claim, ...]:
    """All claims, by the name of their file."""
    modules = sorted(found.name for found in iter_modules(entries.__path__))
    return tuple(import_module(f"{entries.__name__}.{name}").CLAIM for name in modules)


def named(names: Sequence[str]) -> tuple[Claim, ...]:
    """The claims of these names, or all of them for the name "all".

    Args:
        names: ids of claims.

    Raises:
        InputError: no claim has that name.
    """
    known = {claim.id: claim for claim in ledger()}
    if list(names) == ["all"]:
        return tuple(known.values())
    for name in names:
        if name not in known:
            raise InputError("a claim needs a known id", "an unknown one", nearest(name, known), path=name)
    return tuple(known[name] for name in names)
