"""The base of every config class: frozen, typed, and without room for unknown keys."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from forwardgrad.errors import ConfigError

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Strict(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def spelled_out(choice: object) -> object:
    """`mnist` is short for `{name: mnist}`."""
    return {"name": choice} if isinstance(choice, str) else choice


def parse_bytes(size: object) -> object:
    """`200MiB` as a number of bytes; anything but text is handed back.

    Raises:
        ConfigError: a text that is no size.
    """
    if not isinstance(size, str):
        return size
    # Stricter than pydantic's ByteSize, which reads `1.2.3MiB` as one byte.
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", size)
    if found is None or found[2].upper() not in _UNITS:
        cure = "write for example 200MiB or 8GB"
        raise ConfigError("a size needs a number of bytes", f"`{size}`", cure)
    return int(float(found[1]) * _UNITS[found[2].upper()])
