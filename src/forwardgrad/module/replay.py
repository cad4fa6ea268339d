"""The state that an evaluation moves: buffers and random number generators, taken down and put back."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from forwardgrad.forward_ad.dual import Dual


class Buffers:
    """A copy of a model's buffers, to be put back after an error or before a replay.

    Args:
        modules: their buffers are copied, and remembered by place, so that reassigned ones are put back as well.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.places = [(module, key, b) for module in modules for key, b in module._buffers.items() if b is not None]
        self.copies = {id(b): b.clone() for _, _, b in self.places}

    def restore(self) -> None:
        """Puts the values back, into the very tensors that were there."""
        for module, key, buffer in self.places:
            buffer.copy_(self.copies[id(buffer)])
            module._buffers[key] = buffer


class Randomness:
    """The states of every generator a forward pass may draw from.

    Args:
        device: where the model lives; its generator is taken down beside the CPU's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.torch = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self.python = random.getstate()
        self.numpy: Any = sys.modules["numpy"].random.get_state() if "numpy" in sys.modules else None

    def restore(self) -> None:
        """Winds every generator back to where it was."""
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)


class Replay:
    """Makes several evaluations count as one: the same start for each, and the state after the first at the end.

    Args:
        modules: whose buffers an evaluation moves.
        device: whose generator it moves.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        self.modules, self.device = modules, device
        self.before: tuple[Buffers, Randomness] | None = None
        self.after: tuple[Buffers, Randomness] | None = None

    def _now(self) -> tuple[Buffers, Randomness]:
        return Buffers(self.modules), Randomness(self.device)

    def begin(self) -> Buffers:
        """Called before each evaluation; gives the buffers to put back should it fail."""
        if self.before is None:
            self.before = self._now()
        else:
            self.after = self.after if self.after is not None else self._now()
            _restore(self.before)
        return self.before[0]

    def finish(self) -> None:
        """Called at the end: as after one evaluation."""
        if self.after is not None:
            _restore(self.after)

    def undo(self) -> None:
        """Called instead of `finish` where nothing may be left changed: as before the first evaluation."""
        if self.before is not None:
            _restore(self.before)


def _restore(state: tuple[Buffers, Randomness]) -> None:
    with torch.no_grad():
        for part in state:
            part.restore()


_OWN = {"_parameters", "_buffers", "_modules"}


def forget_duals(modules: Sequence[nn.Module]) -> None:
    """Replaces what modules kept of a push (in a buffer, an attribute, or a container in one) by its primal."""
    for module in modules:
        for holder in (module._buffers, module.__dict__):
            for key, value in holder.items():
                if type(value) is Dual or (isinstance(value, (list, tuple, dict)) and value and key not in _OWN):
                    holder[key] = forgotten(value)


def forgotten(value: Any, depth: int = 5) -> Any:
    """The value with primals in the places of Duals: lists and dicts stay the same objects, tuples cannot."""
    if type(value) is Dual:
        return value.primal
    if not depth:
        return value
    if isinstance(value, (list, dict)):
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            if (kept := forgotten(item, depth - 1)) is not item:
                value[key] = kept
    elif isinstance(value, tuple):
        items = [forgotten(item, depth - 1) for item in value]
        if any(kept is not item for kept, item in zip(items, value, strict=True)):
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
