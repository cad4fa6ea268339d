"""The base of every config class: frozen, typed, and without room for unknown keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Strict(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def spelled_out(choice: object) -> object:
    """`mnist` is short for `{name: mnist}`."""
    return {"name": choice} if isinstance(choice, str) else choice
