"""How long a run is."""

from __future__ import annotations

import math

from forwardgrad.train.config import RunConfig
from forwardgrad.train.record import Cost
from forwardgrad.train.tasks.task import Splits


def num_steps(config: RunConfig, splits: Splits, cost: Cost) -> int:
    """The budget in optimizer steps, at least one.

    Args:
        config: states the budget in steps, forward passes, seconds or epochs.
        splits: say how many batches an epoch has.
        cost: says how many forward passes, or seconds, a step takes.
    """
    if config.steps is not None:
        return config.steps
    if config.forwards is not None:
        return max(1, math.floor(config.forwards / cost.forward_passes))
    if config.seconds is not None and cost.seconds is not None:
        return max(1, math.floor(config.seconds / cost.seconds))
    num_samples = len(splits.train[0])
    per_epoch = num_samples // min(config.task.batch_size, num_samples)
    return max(1, round((config.epochs or config.task.epochs) * per_epoch))
