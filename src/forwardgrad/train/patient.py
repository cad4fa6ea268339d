"""What `forwardgrad doctor` looks at: a task, your own code, or a Hugging Face folder, with a loss and a batch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from forwardgrad.errors import InputError, nearest
from forwardgrad.train import hugging_face
from forwardgrad.train.batches import batches
from forwardgrad.train.seeding import stream
from forwardgrad.train.tasks import TASKS

_NEEDS = "the doctor needs a task, `package.module:attribute`, or a Hugging Face folder"


class Patient(NamedTuple):
    """A model, a loss and a typical batch."""

    name: str
    model: nn.Module
    loss_fn: Callable[..., Any]
    batch: tuple[Any, ...]


def patient(name: str, shape: tuple[int, int], seed: int = 0) -> Patient:
    """Finds or builds what a name stands for.

    Args:
        name: a task; or `package.module:attribute`, where the attribute is a function without arguments that returns
            (model, loss_fn, *batch); or a folder (or its config.json) of a Hugging Face model.
        shape: samples and tokens of the batch made up for a Hugging Face model.
        seed: of weights and batch, where they are made up.

    Raises:
        InputError: the name stands for nothing, or what it names returns something else.
        DataError: the task's data are missing.
        MissingExtraError: the model needs transformers.
    """
    if name in TASKS:
        return _of_task(name, seed)
    if Path(name).exists():
        model, batch = hugging_face.model_and_batch(Path(name), shape, seed)
        return Patient(name, model, hugging_face.own_loss, (batch,))
    module, colon, attribute = name.partition(":")
    if not colon:
        raise InputError(_NEEDS, "neither", nearest(name, TASKS), path=name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _of_function(name, _attribute(name, module, attribute))


def _of_task(name: str, seed: int) -> Patient:
    task = TASKS[name]()
    batch = next(batches(task.load().train, task.batch_size, stream(seed, "order")))
    return Patient(name, task.build(stream(seed, "weights")), task.loss, tuple(batch))


def _attribute(name: str, module: str, attribute: str) -> Callable[[], Any]:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the console script, unlike `python -m`, does not look into the working folder
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise InputError(_NEEDS, str(error), "check the name, or run where the module lies", path=name) from error
    except AttributeError as error:
        known = vars(sys.modules[module]) if module in sys.modules else ()
        raise InputError(_NEEDS, f"no `{attribute}` in `{module}`", nearest(attribute, known), path=name) from error
    if not callable(found) or isinstance(found, nn.Module):
        cure = "name a function without arguments that returns (model, loss_fn, *batch)"
        raise InputError(_NEEDS, f"something of type {type(found).__name__}", cure, path=name)
    return found


def _of_function(name: str, function: Callable[[], Any]) -> Patient:
    made = function()
    match made:
        case (nn.Module() as model, loss_fn, *batch) if callable(loss_fn) and not isinstance(loss_fn, Tensor):
            return Patient(name, model, loss_fn, tuple(batch))
    kinds = ", ".join(type(one).__name__ for one in made) if isinstance(made, tuple) else type(made).__name__
    raise InputError(_NEEDS, f"a function that returns ({kinds})", "return (model, loss_fn, *batch)", path=name)
