"""The search for a learning rate: short runs on seeds of their own, judged by the validation part alone."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from forwardgrad.errors import NonFiniteError
from forwardgrad.train.config import RunConfig
from forwardgrad.train.loop import Progress, train_run
from forwardgrad.train.record import Cost, Trial
from forwardgrad.train.seeding import derived_seed
from forwardgrad.train.study.config import Tuning
from forwardgrad.train.study.rates import Range, next_rate
from forwardgrad.train.tasks.task import Splits

_BUDGETS = ("steps", "epochs", "forwards", "seconds")


def search(
    config: RunConfig,
    splits: Splits,
    cost: Cost,
    tuning: Tuning,
    tried: list[Trial],
    observe: Callable[[Progress], None],
    save: Callable[[Trial], object],
) -> None:
    """Tries learning rates until there are enough; each trial is appended to `tried`.

    The same config and trials give the same search, wherever it was cut off.

    Args:
        config: of the runs the rate is for; the range is centred on the task's own rate for the method.
        splits: the task's data; the test part is not looked at.
        cost: of one step.
        tuning: how many trials, how long, on which seeds.
        tried: trials so far.
        observe: called about 200 times a run with its progress; may raise to stop it.
        save: called after each trial.

    Raises:
        MissingExtraError: optuna is not installed.
    """
    among = Range(config.model_copy(update={"lr": None}).learning_rate, tuning.span)
    while len(tried) < tuning.trials:
        seed = derived_seed(tuning.seeds[0], f"rate {len(tried)}")
        brief = shortened(config, tuning, next_rate(tried, among, seed))
        tried.append(attempt(brief, splits, cost, observe))
        save(tried[-1])


def shortened(config: RunConfig, tuning: Tuning, lr: float) -> RunConfig:
    """The run of a trial: a part of the budget, and seeds that are not compared.

    Args:
        config: of the whole run.
        tuning: says which part.
        lr: the rate to try.
    """
    budget = {key: getattr(config, key) for key in _BUDGETS if getattr(config, key) is not None}
    part = {key: tuning.fraction * value for key, value in budget.items()}
    if "steps" in part:
        part["steps"] = max(1, round(part["steps"]))
    return config.model_copy(update=part | {"lr": lr, "seeds": tuning.seeds})


def attempt(config: RunConfig, splits: Splits, cost: Cost, observe: Callable[[Progress], None]) -> Trial:
    """What a learning rate leads to: means over the config's seeds; a seed that diverges decides for all.

    Args:
        config: of the trial.
        splits: the task's data; the test part is not looked at.
        cost: of one step.
        observe: called with the run's progress; may raise to stop it.
    """
    unseen = splits._replace(test=splits.validation)
    try:
        runs = [train_run(config, unseen, seed, cost, observe) for seed in config.seeds]
    except NonFiniteError:
        return Trial(config.learning_rate, None, None)
    best = [max(run.curve, key=lambda point: point.rank) for run in runs]
    accuracies = [point.validation_accuracy for point in best if point.validation_accuracy is not None]
    return Trial(
        lr=config.learning_rate,
        loss=fmean(point.validation_loss for point in best),
        accuracy=fmean(accuracies) if accuracies else None,
    )
