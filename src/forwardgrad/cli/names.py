"""Names that the shell completes: known before torch, and the tasks with it, are loaded; a test compares the two."""

from __future__ import annotations

TASKS = (
    "digits", "mnist", "fashion-mnist", "cifar10", "fsdd", "tinyshakespeare", "sphere", "rosenbrock",
    "styblinski-tang", "beale", "sst2", "ag-news", "channel",
)  # fmt: skip
METHODS = ("backprop", "checkpointed", "spsa", "forward", "control")


def tasks(incomplete: str) -> list[str]:
    """The tasks that begin so."""
    return [name for name in TASKS if name.startswith(incomplete)]


def methods(incomplete: str) -> list[str]:
    """The methods that begin so."""
    return [name for name in METHODS if name.startswith(incomplete)]
