"""Which learning rate to try next: five fixed places for everyone, then optuna's tree-structured Parzen estimator.

Nothing is remembered between two questions: the answer depends on the trials so far and a seed alone, so that a search
that was killed goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from forwardgrad.errors import MissingExtraError
from forwardgrad.train.record import Trial

# Exponents of the span: the task's own rate, half-way out on either side, then the edges, so that a best rate is
# bracketed or known to lie at an edge.
_STARTS = (0.0, -0.5, 0.5, -1.0, 1.0)


@dataclass(frozen=True)
class Range:
    """Rates from centre / span to centre x span."""

    centre: float
    span: float

    @property
    def low(self) -> float:
        """The lowest rate."""
        return self.centre / self.span

    @property
    def high(self) -> float:
        """The highest rate."""
        return self.centre * self.span


def next_rate(tried: Sequence[Trial], among: Range, seed: int) -> float:
    """The learning rate to try after those tried so far.

    Args:
        tried: in order.
        among: the range.
        seed: of the search and of this question in it.

    Raises:
        MissingExtraError: optuna is not installed.
    """
    if len(tried) < len(_STARTS):
        return among.centre * among.span ** _STARTS[len(tried)]
    optuna = tuner_library()
    scale = optuna.distributions.FloatDistribution(among.low, among.high, log=True)
    sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in tried:
        past = {"lr": min(max(trial.lr, among.low), among.high)}  # the edges themselves may be off by rounding
        study.add_trial(optuna.trial.create_trial(params=past, distributions={"lr": scale}, value=_figure(trial)))
    return float(study.ask().suggest_float("lr", among.low, among.high, log=True))


def best_of(tried: Sequence[Trial]) -> Trial | None:
    """The trial that did best on validation; None where all of them diverged."""
    best = max(tried, key=lambda trial: trial.rank, default=None)
    return best if best is not None and best.loss is not None else None


def at_edge(tried: Sequence[Trial]) -> str | None:
    """The side to which no worse rate is known beyond the best one, "low" or "high"; None where it is bracketed."""
    best = best_of(tried)
    if best is None:
        return None
    if best.lr == max(trial.lr for trial in tried):
        return "high"
    return "low" if best.lr == min(trial.lr for trial in tried) else None


def tuner_library() -> ModuleType:
    """optuna, quiet; MissingExtraError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        cure = "pip install forwardgrad[train], or set tuning.trials to 0"
        raise MissingExtraError("tuning learning rates needs optuna", "no such package", cure) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _figure(trial: Trial) -> float:
    if trial.loss is None:
        return -math.inf
    return -trial.loss if trial.accuracy is None else trial.accuracy
