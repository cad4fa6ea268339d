"""The training loop: one method, one seed, from fresh weights to a score on the test part."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter

from torch import Tensor

from forwardgrad.errors import NonFiniteError, OutOfMemoryError
from forwardgrad.estimate import Method, backward
from forwardgrad.measurement import measure
from forwardgrad.module.replay import Randomness
from forwardgrad.tangents.key import Key
from forwardgrad.train.batches import batches
from forwardgrad.train.budget import num_steps
from forwardgrad.train.config import RunConfig
from forwardgrad.train.descent import Descent
from forwardgrad.train.frozen import load_moving, moving_tensors
from forwardgrad.train.interrupt import Stop
from forwardgrad.train.keeper import Keeper
from forwardgrad.train.methods import halved
from forwardgrad.train.probing import Probed, probe_batch, probe_now
from forwardgrad.train.randomness import seeded
from forwardgrad.train.record import Cost, Point, Run
from forwardgrad.train.replay import Logged
from forwardgrad.train.seeding import stream
from forwardgrad.train.shortage import ShortageWarning, give_back, is_shortage, no_memory, shrinking
from forwardgrad.train.state import Moving
from forwardgrad.train.tally import Tallied
from forwardgrad.train.tasks.task import Batch, Splits
from forwardgrad.train.tensorbytes import checksum

# How often a run reports where it is: often enough for a smooth bar, seldom enough to cost nothing.
_REPORTS = 200
# A step is timed over stretches of so many steps, with weights that all but stand still.
_STRETCHES, _STRETCH, _STANDSTILL = 6, 4, 1e-12


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Args:
        step: optimizer steps taken.
        steps: optimizer steps in all.
        cost: of one step.
        point: the latest point of the curve.
        curve: all of its points so far.
    """

    step: int
    steps: int
    cost: Cost
    point: Point
    curve: Sequence[Point] = ()


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
    batch = next(order)
    found = measure(config.method.build(model), model, config.task.loss, *batch, into=sink, key=Key(seed))
    size = len(batch[0])
    passes = found.forward_passes * size / (config.unit_batch or size)
    seconds = None if config.seconds is None else step_seconds(config, splits)
    return Cost(passes, found.peak_bytes, found.tape_bytes, seconds)


def step_seconds(config: RunConfig, splits: Splits) -> float:
    """Seconds of one step, as the loop's own clock has it: the best of several stretches of a few steps.

    Args:
        config: what to train, and how.
        splits: the task's data.
    """
    little = tuple(tensor[:1] for tensor in splits.validation)  # nothing is to be learnt from these scores
    budget = {"seconds": None, "steps": _STRETCHES * _STRETCH, "evaluations": _STRETCHES}
    brief = config.model_copy(update=budget | {"lr": _STANDSTILL})
    run = train_run(brief, Splits(splits.train, little, little), config.seeds[0], Cost(1.0, 0, 0), lambda now: None)
    return min((after.seconds - before.seconds) / _STRETCH for before, after in pairwise(run.curve))


def train_run(
    config: RunConfig,
    splits: Splits,
    seed: int,
    cost: Cost,
    observe: Callable[[Progress], None],
    keeper: Keeper | None = None,
) -> Run:
    """Trains once and reports the weights that did best on the validation part.

    The same config and seed give the same weights bit for bit. The random states of torch, numpy and Python are left
    as they were. Where memory is short, fewer tangents are pushed at once, with a `ShortageWarning`: the same tangents
    and dropout masks, and so the same estimate, but for the order in which floating-point numbers are added.

    Args:
        config: what to train, how, and for how long.
        splits: the task's data; the test part is scored once, at the end.
        seed: fixes weights, data order, dropout and tangents.
        cost: of one step, from `step_cost`: turns a budget of forward passes into steps.
        observe: called about 200 times with the run's progress.
        keeper: saves checkpoints, and continues from those that are there; None to save nothing.

    Raises:
        NonFiniteError: the loss is no longer finite; names the step by which it happened.
        CheckpointError: there are checkpoints, and none of them is good.
        OutputError: a checkpoint cannot be written, or there is no room for it.
        OutOfMemoryError: no memory is left, and less at once is not to be had.
        KeyboardInterrupt: the keeper was told to stop; a checkpoint is saved.
    """
    with seeded(seed):
        model = config.task.build(stream(seed, "weights"))
        moving = Moving(
            model=model,
            choice=config.method,
            descent=Descent(model, config.learning_rate, config.momentum, config.method.fused),
            order=batches(splits.train, config.task.batch_size, stream(seed, "order")),
            cost=cost,
            steps=num_steps(config, splits, cost),
        )
        logged = keeper.logged(config, moving.method, model) if keeper else None
        with closing(logged.writer) if logged else nullcontext():
            return _Training(config, splits, seed, moving, keeper, logged).run(observe)


@dataclass
class _Training:
    config: RunConfig
    splits: Splits
    seed: int
    moving: Moving
    keeper: Keeper | None
    logged: Logged | None
    marks: set[int] = field(default_factory=set)  # steps after which the curve gets a point
    shrunk: bool = False  # in the last step

    @property
    def method(self) -> Method:
        return self.logged or self.moving.method

    def run(self, observe: Callable[[Progress], None]) -> Run:
        try:
            return self._run(observe)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, OutOfMemoryError) or not is_shortage(error):
                raise
            raise self._short("none left") from error

    def _run(self, observe: Callable[[Progress], None]) -> Run:
        now, keeper = self.moving, self.keeper
        resumed = keeper is not None and keeper.resume(now)
        if keeper:
            keeper.check_space(now, self.config.momentum, getattr(now.choice, "num_tangents", 0) if self.logged else 0)
        if not resumed:
            now.add(self._point(None))
        if self.logged:
            self.logged.method = now.method
            self.logged.writer.go_on(now.step)
        marks, saves = _even(now.steps, self.config.evaluations), keeper.marks(now.steps) if keeper else set()
        looks = _even(now.steps, _REPORTS) | marks | saves
        self.marks, stop = marks, keeper.stop if keeper else Stop()
        observe(self._progress())
        started = perf_counter()
        while now.step < now.steps:
            if not stop.asked:
                now.total += self._step()
                now.step, now.since = now.step + 1, now.since + 1
            if now.step in looks or stop.asked or self.shrunk:
                now.seconds += perf_counter() - started  # the clock stands still while we look
                self._look(marks, saves, stop, observe)
                started = perf_counter()
        weights = checksum(now.model)
        load_moving(now.model, now.best)
        test = self.config.task.score(now.model, self.splits.test)
        curve, size = tuple(now.curve), now.chunk_size
        return Run(self.seed, now.cost, curve, now.best_step, test.loss, test.accuracy, weights, size)

    def _look(self, marks: set[int], saves: set[int], stop: Stop, observe: Callable[[Progress], None]) -> None:
        now, keeper = self.moving, self.keeper
        if now.step in marks and now.curve[-1].step < now.step:
            now.add(self._point(float(now.total) / now.since))
        # What a smaller chunk adds up in another order must not be taken for another run: it is saved at once.
        if keeper and (stop.asked or self.shrunk or (now.step in saves and keeper.due(now))):
            self._save(keeper)
        self.shrunk = False
        if stop.asked:
            raise KeyboardInterrupt
        observe(self._progress())

    def _step(self) -> Tensor:
        now = self.moving
        now.descent.move_to(self.config.rate_at(now.step, now.steps))
        batch = next(now.order)
        try:
            while (loss := self._backward(batch)) is None:
                pass
        except NonFiniteError as error:
            raise self._stopped(error.found) from error
        now.descent.step()
        if self.logged:
            self.logged.stepped(now.steps)
        return loss

    def _backward(self, batch: Batch) -> Tensor | None:
        """The loss, its gradient delivered; None where memory was short, and less will be pushed at once."""
        now, smaller = self.moving, halved(self.moving.choice)
        before = Randomness(batch[0].device) if smaller else None
        try:
            key = Key(self.seed, now.step)
            method = Tallied(self.method, now.tally, measured=now.step + 1 in self.marks)
            return backward(method, now.model, self.config.task.loss, *batch, into=now.descent.sink, key=key)
        except (RuntimeError, MemoryError) as error:
            if smaller is None or before is None or not is_shortage(error):
                raise
        # Out here the error is gone, and with it the frames that held on to what was computed.
        give_back()
        before.restore()
        warnings.warn(shrinking(now.choice, smaller, f"step {now.step}"), ShortageWarning, stacklevel=2)
        now.use(smaller)
        if self.logged:
            self.logged.method = now.method
        self.shrunk = True
        return None

    def _point(self, train_loss: float | None) -> Point:
        now = self.moving
        score = self.config.task.score(now.model, self.splits.validation)
        if not math.isfinite(score.loss) or not math.isfinite(train_loss or 0.0):
            raise self._stopped(f"training loss {train_loss}, validation loss {score.loss}")
        forwards = now.step * now.cost.forward_passes
        tally, probed = now.tally, self._probed()
        return Point(
            now.step, forwards, now.seconds, train_loss, score.loss, score.accuracy,
            tally.mean, tally.deviation, tally.ratio, probed.cosine, probed.error,
        )  # fmt: skip

    def _probed(self) -> Probed:
        now, probe, task = self.moving, self.config.probe, self.config.task
        if probe is None or len(now.curve) % probe.every:
            return Probed(None, None)
        batch = probe_batch(probe, self.splits.train, self.seed)
        return probe_now(probe, now.method, now.model, task.loss, batch, self.seed, now.step)

    def _progress(self) -> Progress:
        now = self.moving
        return Progress(now.step, now.steps, now.cost, now.curve[-1], now.curve)

    def _save(self, keeper: Keeper) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in moving_tensors(self.moving.model).values()):
            raise self._stopped("weights that are not")  # the checkpoint before is the better one
        if self.logged:
            self.logged.writer.sync()
        keeper.save(self.moving)

    def _stopped(self, found: str) -> NonFiniteError:
        cure = f"lower the learning rate, now {self.config.learning_rate:g}{self._last_good()}"
        return NonFiniteError("training needs finite numbers", f"{found} {self._place()}", cure)

    def _short(self, found: str) -> OutOfMemoryError:
        return no_memory(self.moving.choice, f"{found} {self._place()}", self._last_good())

    def _place(self) -> str:
        now = self.moving
        return f"in step {now.step} (epoch {now.order.epoch}, batch {now.order.position})"

    def _last_good(self) -> str:
        last = self.keeper.checkpoints.newest() if self.keeper else None
        return f"; the last good checkpoint is {last}" if last else "; there is no checkpoint yet"


def _even(steps: int, places: int) -> set[int]:
    return {math.ceil(steps * i / places) for i in range(1, places + 1)}
