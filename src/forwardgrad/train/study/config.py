"""`StudyConfig`: everything that decides a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from forwardgrad.errors import ConfigError
from forwardgrad.train.config import Saving, read_tree, validated
from forwardgrad.train.methods import AnyMethod, Backprop, Checkpointed, Forward
from forwardgrad.train.strict import PositiveFloat, PositiveInt, Strict, parse_bytes
from forwardgrad.train.study.spelling import label_of, method_tree, method_trees
from forwardgrad.train.tasks import TaskChoice
from forwardgrad.train.tasks.digits import Digits

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Spelled = Annotated[AnyMethod, Field(discriminator="name"), BeforeValidator(method_tree)]
_METHOD: TypeAdapter[AnyMethod] = TypeAdapter(Spelled)
RIVALS: tuple[AnyMethod, ...] = (Backprop(), Checkpointed(), Checkpointed(fused=True))


class Tuning(Strict):
    """The search for a learning rate, the same for every method.

    Args:
        trials: learning rates tried per method; 0 to take the task's own for each.
        fraction: of a run's budget that a trial gets.
        span: rates are tried from the task's own / span to the task's own x span, on a logarithmic scale.
        seeds: of the trials; none of them a seed of the comparison. A trial's figure is their mean.
    """

    trials: Annotated[int, Field(ge=0)] = 12
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.25
    span: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 30.0
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (100,)


class StudyConfig(Strict):
    """Several methods on one task, each with the same budget, the same tuning and the same seeds.

    Args:
        task: a task's name, or its name and settings.
        methods: names, `NAME:SETTING`s, or names and settings. Backprop and its checkpointed forms, plain and fused,
            are always added.
        forwards: budget of a run in forward passes of the task's batch, counted by FLOPs,
        seconds: or in seconds of steps, timed before. Where neither is set: the forward passes that backprop spends in
            the task's own epochs.
        peak: bytes over weights and batch that a step may hold at its peak: every method gets the largest batch that
            fits. The budget stays the same.
        seeds: one run per method and seed, no seed twice.
        tuning: of the learning rates.
        rates: learning rates that are known, by methods written as above; these methods are not tuned. Backprop's
            holds for its checkpointed forms too, unless they have their own.
        within: how near to backprop's validation figure counts as reached: a share of samples (0.02 unless set), or
            loss where the task has no accuracy (0.1 unless set).
        momentum: of SGD.
        schedule: "linear" to zero, or "constant".
        evaluations: how often the validation part is scored along the way.
        checkpoints: when runs are saved.
        threads: of torch.
    """

    task: TaskChoice = Digits()
    methods: Annotated[tuple[Spelled, ...], BeforeValidator(method_trees)] = (Forward(),)
    forwards: PositiveFloat | None = None
    seconds: PositiveFloat | None = None
    peak: Annotated[PositiveInt, BeforeValidator(parse_bytes)] | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    tuning: Tuning = Tuning()
    rates: dict[str, PositiveFloat] = Field(default_factory=dict)
    within: PositiveFloat | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    schedule: Literal["linear", "constant"] = "linear"
    evaluations: PositiveInt = 20
    checkpoints: Saving = Saving()
    threads: PositiveInt = 1

    @model_validator(mode="after")
    def _is_fair(self) -> StudyConfig:
        if self.forwards is not None and self.seconds is not None:
            found = "forwards and seconds"
            raise ConfigError("an equal budget needs one unit", found, "drop one of them", path="forwards")
        for path, seeds in (("seeds", self.seeds), ("tuning.seeds", self.tuning.seeds)):
            if len(set(seeds)) < len(seeds):
                found = ", ".join(map(str, seeds))
                raise ConfigError("a spread needs different seeds", found, "name each seed once", path=path)
        shared = set(self.seeds) & set(self.tuning.seeds)
        if shared and self.tuning.trials:
            found, cure = f"{min(shared)} among both", "choose other seeds to tune on"
            raise ConfigError("tuning needs seeds that are not compared", found, cure, path="tuning.seeds")
        labels = [label_of(method) for method in self.methods]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ConfigError("a comparison needs different methods", f"{twice} twice", "drop one", path="methods")
        if self.peak is not None and "batch_size" not in type(self.task).model_fields:
            found, cure = f"task {self.task.name}", "drop peak, or choose a task with data"
            raise ConfigError("an equal peak needs a batch that can shrink", found, cure, path="peak")
        known = [label_of(method) for method in self.lineup]
        if len(self._labelled_rates) < len(self.rates):
            raise ConfigError("a comparison needs one rate for a method", "two", "drop one of them", path="rates")
        for label in self._labelled_rates:
            if label not in known:
                cure = f"name one of {', '.join(known)}"
                raise ConfigError("a rate needs a method of the comparison", label, cure, path="rates")
        return self

    @property
    def lineup(self) -> tuple[AnyMethod, ...]:
        """Who is compared: backprop and its checkpointed forms first, then what the config names, in its order."""
        return (*RIVALS, *(method for method in self.methods if method not in RIVALS))

    def rate_of(self, method: AnyMethod) -> float | None:
        """The learning rate that is known for a method; None where it must be found.

        Args:
            method: of the lineup.
        """
        rates = self._labelled_rates
        return rates.get(label_of(method), rates.get("backprop") if method in RIVALS else None)

    @property
    def _labelled_rates(self) -> dict[str, float]:
        return {label_of(_METHOD.validate_python(written)): rate for written, rate in self.rates.items()}


def read_study(source: Path | None, overrides: Mapping[str, Any]) -> StudyConfig:
    """The config in a YAML file, with overrides on top.

    Args:
        source: YAML file; None for an empty one.
        overrides: dotted keys ("tuning.trials") and values, applied in order.

    Raises:
        ConfigError: the file cannot be read, or a key or value is unknown or wrong.
    """
    return validated(read_tree(source, overrides, {"task": "digits"}), StudyConfig)
