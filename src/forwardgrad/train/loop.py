"""The training loop: one method, one seed, from fresh weights to a score on the test part."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from forwardgrad.errors import NonFiniteError
from forwardgrad.estimate import Method, backward
from forwardgrad.measurement import measure
from forwardgrad.tangents.key import Key
from forwardgrad.train.batches import batches
from forwardgrad.train.config import RunConfig
from forwardgrad.train.descent import Descent
from forwardgrad.train.record import Cost, Point, Run
from forwardgrad.train.seeding import derived_seed, stream
from forwardgrad.train.tasks.task import Batch, Splits

# How often a run reports where it is: often enough for a smooth bar, seldom enough to cost nothing.
_REPORTS = 200


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Args:
        step: optimizer steps taken.
        steps: optimizer steps in all.
        cost: of one step.
        point: the latest point of the curve.
    """

    step: int
    steps: int
    cost: Cost
    point: Point


def step_cost(config: RunConfig, splits: Splits) -> Cost:
    """What one step takes, measured on the first batch of the first seed.

    Args:
        config: what to train, and how.
        splits: the task's data.
    """
    seed = config.seeds[0]
    model = config.task.build(stream(seed, "weights"))
    order = batches(splits.train, config.task.batch_size, stream(seed, "order"))
    sink = Descent(model, config.learning_rate, config.momentum, config.method.fused).sink
    found = measure(config.method.build(model), model, config.task.loss, *next(order), into=sink, key=Key(seed))
    return Cost(found.forward_passes, found.peak_bytes, found.tape_bytes)


def train_run(config: RunConfig, splits: Splits, seed: int, cost: Cost, observe: Callable[[Progress], None]) -> Run:
    """Trains once and reports the weights that did best on the validation part.

    The same config and seed give the same weights bit for bit. Torch's own random state is left as it was.

    Args:
        config: what to train, how, and for how long.
        splits: the task's data; the test part is scored once, at the end.
        seed: fixes weights, data order, dropout and tangents.
        cost: of one step, from `step_cost`: turns a budget of forward passes into steps.
        observe: called about 200 times with the run's progress.

    Raises:
        NonFiniteError: the loss is no longer finite; names the step by which it happened.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "dropout"))
        model = config.task.build(stream(seed, "weights"))
        return _Training(
            config=config,
            splits=splits,
            model=model,
            method=config.method.build(model),
            descent=Descent(model, config.learning_rate, config.momentum, config.method.fused),
            order=batches(splits.train, config.task.batch_size, stream(seed, "order")),
            cost=cost,
            steps=num_steps(config, splits, cost),
            seed=seed,
        ).run(observe)


def num_steps(config: RunConfig, splits: Splits, cost: Cost) -> int:
    """The budget in optimizer steps, at least one.

    Args:
        config: states the budget in steps, forward passes, or epochs.
        splits: say how many batches an epoch has.
        cost: says how many forward passes a step takes.
    """
    if config.steps is not None:
        return config.steps
    if config.forwards is not None:
        return max(1, math.floor(config.forwards / cost.forward_passes))
    num_samples = len(splits.train[0])
    per_epoch = num_samples // min(config.task.batch_size, num_samples)
    return max(1, round((config.epochs or config.task.epochs) * per_epoch))


@dataclass
class _Training:
    config: RunConfig
    splits: Splits
    model: nn.Module
    method: Method
    descent: Descent
    order: Iterator[Batch]
    cost: Cost
    steps: int
    seed: int

    def run(self, observe: Callable[[Progress], None]) -> Run:
        marks = _even(self.steps, self.config.evaluations)
        reports = _even(self.steps, _REPORTS) | marks
        point = self._point(0, 0.0, None)
        curve, best = [point], _Best(point, self.model)
        step, total, since, seconds = 0, torch.zeros(()), 0, 0.0
        observe(Progress(step, self.steps, self.cost, point))
        started = perf_counter()
        while step < self.steps:
            total += self._step(step)
            step, since = step + 1, since + 1
            if step in reports:
                seconds += perf_counter() - started  # the clock stands still while we look
                if step in marks:
                    point = self._point(step, seconds, float(total) / since)
                    curve.append(point)
                    best = _Best(point, self.model) if point.rank > best.point.rank else best
                    total, since = torch.zeros(()), 0
                observe(Progress(step, self.steps, self.cost, point))
                started = perf_counter()
        weights = checksum(self.model)
        self.model.load_state_dict(best.state)
        test = self.config.task.score(self.model, self.splits.test)
        return Run(self.seed, self.cost, tuple(curve), best.point.step, test.loss, test.accuracy, weights)

    def _step(self, step: int) -> Tensor:
        lr = self.config.learning_rate
        self.descent.move_to(lr if self.config.schedule == "constant" else lr * (1 - step / self.steps))
        batch, key = next(self.order), Key(self.seed, step)
        try:
            loss = backward(self.method, self.model, self.config.task.loss, *batch, into=self.descent.sink, key=key)
        except NonFiniteError as error:
            raise self._stopped(error.found, step) from error
        self.descent.step()
        return loss

    def _point(self, step: int, seconds: float, train_loss: float | None) -> Point:
        score = self.config.task.score(self.model, self.splits.validation)
        if not math.isfinite(score.loss) or not math.isfinite(train_loss or 0.0):
            raise self._stopped(f"training loss {train_loss}, validation loss {score.loss}", step)
        return Point(step, step * self.cost.forward_passes, seconds, train_loss, score.loss, score.accuracy)

    def _stopped(self, found: str, step: int) -> NonFiniteError:
        cure = f"lower the learning rate, now {self.config.learning_rate:g}"
        return NonFiniteError("training needs finite numbers", f"{found} in step {step}", cure)


class _Best:
    """The weights at the point of the curve that ranks highest so far."""

    def __init__(self, point: Point, model: nn.Module) -> None:
        self.point = point
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _even(steps: int, places: int) -> set[int]:
    return {math.ceil(steps * i / places) for i in range(1, places + 1)}


def checksum(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: equal for two models exactly when they are equal bit for bit."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
