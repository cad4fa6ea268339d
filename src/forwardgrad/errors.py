"""Errors that say: *X needs Y; found Z at path; do W.*

One base class, one subclass per kind of trouble, so that a caller can catch what it can cure.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ForwardGradError(Exception):
    """What was needed, what was found instead, where, and the cure, in one sentence.

    Args:
        needs: what the caller asked for and what that requires, e.g. "fg.backward needs a scalar loss".
        found: what was there instead.
        cure: what to do about it, in the imperative.
        path: the place: a module path, a parameter name, a file, a config key. Empty where there is none.
    """

    def __init__(self, needs: str, found: str, cure: str, path: str = "") -> None:
        place = f" at `{path}`" if path else ""
        super().__init__(f"{needs}; found {found}{place}; {cure}.")
        self.needs, self.found, self.cure, self.path = needs, found, cure, path

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        return type(self), (self.needs, self.found, self.cure, self.path)


class InputError(ForwardGradError, ValueError):
    """An argument that cannot be right: shape, device, dtype, count or name."""


class RungError(ForwardGradError, TypeError):
    """A method that must know more about the function than the objective tells."""


class NonFiniteError(ForwardGradError, ArithmeticError):
    """NaN or infinity in the inputs, the loss or the slopes."""


class IllConditionedError(ForwardGradError, ArithmeticError):
    """A layer whose inverse Jacobian loses more digits than there are."""


class UnsupportedError(ForwardGradError, NotImplementedError):
    """An operation, a layer or a wrapped model through which no tangent can be pushed."""


class LostTangentError(ForwardGradError, RuntimeError):
    """A tangent that never reached the loss: cut by detach, .data, numpy or a value read out."""


class ParameterChangedError(ForwardGradError, RuntimeError):
    """A forward pass that writes into a parameter."""


class OutOfMemoryError(ForwardGradError, MemoryError):
    """No memory is left for what was asked."""


class ReplicaError(ForwardGradError, RuntimeError):
    """A copy of a model that cannot follow the others, or a round in which nobody answered."""


class StrictError(ForwardGradError, RuntimeError):
    """Under strict=True: an operation without a rule, or a value read out of a tensor that carries a tangent."""


class ConfigError(ForwardGradError, ValueError):
    """An unknown or wrong key of a configuration or a command."""


class DataError(ForwardGradError, FileNotFoundError):
    """Data that is not where it was said to be, or is not what it should be."""


class CheckpointError(DataError):
    """A run folder, a checkpoint or a replay log that cannot be read, or is of another run."""


class OutputError(ForwardGradError, OSError):
    """A folder that cannot be written to, or is full."""


class MissingExtraError(ForwardGradError, ImportError):  # type: ignore[misc] # ImportError.path is a path too
    """An optional dependency that is not installed; the cure names the extra."""


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
