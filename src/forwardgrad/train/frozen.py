"""The part of a model that training never moves: every build makes it again, and a checkpoint needs its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn

from forwardgrad.train.tensorbytes import tensor_bytes


def moving_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's `state_dict` without its frozen parameters; all of it where none is frozen."""
    frozen = _frozen(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def load_moving(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Takes back what `moving_tensors` gave.

    Args:
        model: built as the one they came from.
        tensors: by name.

    Raises:
        RuntimeError: names are missing or too many, or shapes differ, as from `load_state_dict`.
    """
    own = model.state_dict()
    model.load_state_dict({name: own[name] for name in _frozen(model)} | dict(tensors))


def frozen_checksum(model: nn.Module) -> str:
    """SHA-256 of the frozen parameters; empty where there are none."""
    frozen = _frozen(model)
    digest = hashlib.sha256()
    for name, tensor in frozen.items():
        digest.update(name.encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest() if frozen else ""


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    every = model.named_parameters(remove_duplicate=False)
    return {name: parameter for name, parameter in every if not parameter.requires_grad}
