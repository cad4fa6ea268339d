"""The largest batch whose step fits under a peak."""

from __future__ import annotations

from collections.abc import Callable

from forwardgrad.errors import ForwardGradError
from forwardgrad.measurement import measure
from forwardgrad.tangents.key import Key
from forwardgrad.train.batches import batches
from forwardgrad.train.config import RunConfig
from forwardgrad.train.descent import Descent
from forwardgrad.train.seeding import stream
from forwardgrad.train.tasks.task import Splits

_FINE = 16  # the search ends when the next batch to try differs by less than one part in so many


class DoesNotFitError(ForwardGradError, ValueError):
    """A method whose step holds more than the peak even with a single sample."""


def with_batch(config: RunConfig, size: int) -> RunConfig:
    """The same run with batches of another size, its costs still counted in passes of the batch it had.

    Args:
        config: of a task that has a batch size.
        size: samples.
    """
    unit = config.unit_batch or config.task.batch_size
    task = config.task.model_copy(update={"batch_size": size})
    return config.model_copy(update={"task": task, "unit_batch": unit})


def largest_batch(config: RunConfig, splits: Splits, limit: int, between: Callable[[], None]) -> RunConfig:
    """The same run with the largest batch that fits, to one part in sixteen; at most the whole training part.

    Args:
        config: of a task that has a batch size.
        splits: the task's data.
        limit: bytes over weights and batch.
        between: called before each measurement; may raise to stop the search.

    Raises:
        DoesNotFitError: a single sample is too much.
    """

    def peak(size: int) -> int:
        between()
        return peak_bytes(with_batch(config, size), splits)

    smallest, most = peak(1), len(splits.train[0])
    if smallest > limit:
        needs = f"{config.method.name} needs a step of one sample below the peak of {limit:,} bytes"
        raise DoesNotFitError(needs, f"{smallest:,} bytes", "allow a higher peak")
    fits, too_much = 1, most + 1
    while fits < most:
        # Doubling until something is too much, then halving the gap.
        size = min(2 * fits, most) if too_much > most else (fits + too_much) // 2
        if too_much <= most and size - fits < max(1, fits / _FINE):
            break
        if peak(size) <= limit:
            fits = size
        else:
            too_much = size
    return with_batch(config, fits)


def peak_bytes(config: RunConfig, splits: Splits) -> int:
    """The most bytes that a step holds over weights and batch, on the first batch of the first seed."""
    seed = config.seeds[0]
    model = config.task.build(stream(seed, "weights"))
    batch = next(batches(splits.train, config.task.batch_size, stream(seed, "order")))
    sink = Descent(model, config.learning_rate, config.momentum, config.method.fused).sink
    method = config.method.build(model)
    return measure(method, model, config.task.loss, *batch, into=sink, key=Key(seed), repeats=1).peak_bytes
