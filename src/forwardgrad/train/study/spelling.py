"""Methods as people write them on a command line, and as tables name them."""

from __future__ import annotations

from typing import Any

from forwardgrad.errors import ConfigError
from forwardgrad.train.config import plain_value
from forwardgrad.train.methods import AnyMethod

# What a comparison calls them; any other setting that is not the default is written out.
_FLAGS = {"num_tangents": "K={}", "tangents": "{}", "fused": "fused"}


def method_tree(written: object) -> object:
    """`forward:16:tangents=gaussian` as a mapping of name and settings; anything but text is handed back.

    A number alone is `num_tangents`, a word alone a setting that is switched on.

    Raises:
        ConfigError: a part that is none of these.
    """
    if not isinstance(written, str):
        return written
    name, *settings = (part.strip() for part in written.split(":"))
    tree: dict[str, Any] = {"name": name}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key or (equals and not value):
            cure = "write for example forward:16 or forward:16:tangents=gaussian"
            raise ConfigError("a method needs NAME:SETTING:...", f"`{written}`", cure)
        if equals:
            tree[key] = plain_value(key, value)
        elif key.isdecimal():
            tree["num_tangents"] = int(key)
        else:
            tree[key] = True
    return tree


def method_trees(written: object) -> object:
    """`backprop,forward:4` as a list; anything but text is handed back."""
    return [part.strip() for part in written.split(",") if part.strip()] if isinstance(written, str) else written


def label_of(method: AnyMethod) -> str:
    """A method's name in tables: `forward K=16`, `checkpointed fused`; unlike that of any method set otherwise."""
    words: list[str] = [method.name]
    for key, value in method.model_dump().items():
        field = type(method).model_fields[key]
        if key == "num_tangents" or (key != "name" and value != field.default):
            words.append(_FLAGS.get(key, f"{key}={{}}").format(value))
    return " ".join(words)
