"""From a replay log back to the weights: base weights from the seed, tangents from the keys, steps from the slopes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from forwardgrad.errors import CheckpointError
from forwardgrad.estimate import Accumulate, Deliver, Estimate, Method
from forwardgrad.module import ModuleObjective
from forwardgrad.objective import Objective, Params
from forwardgrad.tangents import Key
from forwardgrad.train.config import RunConfig, build_config
from forwardgrad.train.descent import Descent
from forwardgrad.train.replaylog import FOLDER, SUFFIX, ReplayLog, read
from forwardgrad.train.replaywriter import Writer
from forwardgrad.train.seeding import stream
from forwardgrad.train.tensorbytes import checksum


class Rebuilding(Method, Protocol):
    """A method whose gradient is decided by its slopes and its key."""

    def rebuild(
        self, objective: Objective, params: Params, slopes: Tensor, key: Key, reached: frozenset[str] | None = None
    ) -> dict[str, Tensor]:
        """The gradient of an earlier call."""


@dataclass
class Logged:
    """A method that also writes its slopes to a replay log, once its step is done.

    Args:
        method: does the work.
        writer: of the log.
        config: of the run, resolved, as plain values.
        seed: of the run.
    """

    method: Method
    writer: Writer
    config: dict[str, Any]
    seed: int

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        self.estimate = self.method(objective, params, key=key, into=into)
        return self.estimate

    def stepped(self, steps: int) -> None:
        """The optimizer has taken the step of the last estimate.

        Args:
            steps: of the whole run.
        """
        self.writer.append(self.estimate.slopes, tuple(self.estimate.grad), self.config, self.seed, steps)


@dataclass(frozen=True)
class Replayed:
    """A run rebuilt from its log.

    Args:
        model: with the weights after `step` steps.
        log: where they came from.
        step: optimizer steps replayed.
        weights: their checksum.
    """

    model: nn.Module
    log: ReplayLog
    step: int
    weights: str


def replayable(method: Method, model: nn.Module) -> TypeGuard[Rebuilding]:
    """Whether slopes and keys decide the run; momentum may be, since it too follows from them.

    Args:
        method: what the config built.
        model: what is trained.
    """
    return obstacle(method, model) is None


def obstacle(method: Method, model: nn.Module) -> str | None:
    """Why slopes and keys do not decide the run; None where they do.

    Args:
        method: what the config built.
        model: what is trained.
    """
    if not hasattr(method, "rebuild"):
        return f"the gradient of {type(method).__name__} is not decided by slopes and keys alone"
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = sorted(set(model.state_dict()) - parameters)
    if buffers:
        others = f" and {len(buffers) - 1} other buffers" if len(buffers) > 1 else ""
        return f"the model keeps `{buffers[0]}`{others}, which only forward passes over the data can write"
    return None


def obstacle_of(config: RunConfig) -> str | None:
    """Why runs of a config leave no replay log; None where they leave one."""
    with torch.random.fork_rng(devices=[]):
        model = config.task.build(stream(config.seeds[0], "weights"))
    return obstacle(config.method.build(model), model)


def logs(folder: Path) -> list[Path]:
    """The replay logs of a run folder; or the file itself, where one is named."""
    return [folder] if folder.is_file() else sorted((folder / FOLDER).glob(f"*{SUFFIX}"))


def replay(path: Path) -> Replayed:
    """Rebuilds the weights bit for bit from a log; meets no data and runs no forward pass.

    Args:
        path: of the log.

    Raises:
        CheckpointError: it is no replay log, or does not fit its own config.
    """
    log = read(path)
    config, seed = build_config(log.header.config), log.header.seed
    with torch.random.fork_rng(devices=[]):
        model = config.task.build(stream(seed, "weights"))
    method = config.method.build(model)
    if not replayable(method, model):
        needs, found = "a replay needs a run that slopes and keys decide", obstacle(method, model) or "another"
        raise CheckpointError(needs, found, "use its checkpoints", path=str(path))
    objective, sink = ModuleObjective(model, config.task.loss), Accumulate()
    descent = Descent(model, config.learning_rate, config.momentum, fused=False)
    reached = frozenset(log.header.names)
    for step, slopes in enumerate(log.slopes):
        descent.move_to(config.rate_at(step, log.header.steps))
        for name, grad in method.rebuild(objective, objective.params, slopes, Key(seed, step), reached).items():
            sink(name, objective.params[name], grad)
        descent.step()
    return Replayed(model, log, len(log.slopes), checksum(model))
