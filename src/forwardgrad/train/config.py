"""`RunConfig`: everything that decides a run, from YAML, options and `--set key=value`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from forwardgrad.errors import ConfigError, nearest
from forwardgrad.train.methods import CHOICES, MethodChoice
from forwardgrad.train.strict import PositiveFloat, PositiveInt, Strict
from forwardgrad.train.tasks import AnyTask, TaskChoice
from forwardgrad.train.tasks.digits import Digits

_BRANCHES: dict[Any, type[BaseModel]] = {
    choice.model_fields["name"].default: choice for choice in (*CHOICES, *get_args(AnyTask))
}
_BUDGETS = ("steps", "epochs", "forwards", "seconds")
_C = TypeVar("_C", bound=BaseModel)


class Saving(Strict):
    """When a run is saved, so that it can go on after a crash.

    Args:
        every: steps between two checkpoints; where unset, ten times a run, but not within a second of the last.
        keep: how many checkpoints of a run stay, the newest ones; of a finished run one stays.
    """

    every: PositiveInt | None = None
    keep: PositiveInt = 2


class Probe(Strict):
    """How estimates compare with the true gradient, seen at evaluations; costs a backward pass, but no step of the run.

    Args:
        samples: of the training part, the same at every point of a run.
        keys: independent estimates whose cosine and error are averaged.
        every: of the evaluations, each so manieth one is probed.
    """

    samples: PositiveInt = 64
    keys: PositiveInt = 4
    every: PositiveInt = 1


class Logs(Strict):
    """What is written beside `log.jsonl` while a run trains.

    Args:
        tensorboard: event files in the folder `tensorboard`; needs the extra of that name.
        wandb: a project of Weights & Biases; needs the extra of that name. Set WANDB_MODE=offline to stay off the
            network.
    """

    tensorboard: bool = False
    wandb: str | None = None


class RunConfig(Strict):
    """One method on one task.

    Args:
        task: a task's name, or its name and settings.
        method: a method's name, or its name and settings.
        lr: learning rate at the start, falling linearly to zero unless `schedule` says otherwise; where unset, the one
            that the task names for the method.
        momentum: of SGD.
        schedule: "linear" to zero, "constant", or "exponential", lr exp(-decay step).
        decay: per step, of the exponential schedule alone.
        steps: budget in optimizer steps,
        epochs: or in passes over the training part (the task's own where no budget is set),
        forwards: or in forward passes, counted by FLOPs: the budget under which methods are compared,
        seconds: or in seconds of steps: one step is timed first, and its time recorded, so that a run has a fixed
            number of steps and can go on bit for bit.
        unit_batch: samples of the forward pass that costs are counted in; where unset, those of a step's own batch.
        evaluations: how often the validation part is scored along the way.
        seeds: one run per seed, no seed twice; a seed fixes weights, data order, dropout and tangents.
        checkpoints: when the run is saved.
        probe: whether, and on how much, estimates are compared with the true gradient; not at all where unset.
        logs: where points are written beside `log.jsonl`.
        threads: of torch; one is fastest for small nets, and keeps wall times comparable.
    """

    task: TaskChoice = Digits()
    method: MethodChoice
    lr: PositiveFloat | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    schedule: Literal["linear", "constant", "exponential"] = "linear"
    decay: PositiveFloat | None = None
    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    forwards: PositiveFloat | None = None
    seconds: PositiveFloat | None = None
    unit_batch: PositiveInt | None = None
    evaluations: PositiveInt = 20
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)] = (0,)
    checkpoints: Saving = Saving()
    probe: Probe | None = None
    logs: Logs = Logs()
    threads: PositiveInt = 1

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        given = [name for name in _BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError("a budget needs one unit", " and ".join(given), "drop all but one")
        if (self.schedule == "exponential") != (self.decay is not None):
            found = f"schedule {self.schedule} with decay {self.decay}"
            cure = "set `schedule: exponential` and `decay: 1e-4`, or neither"
            raise ConfigError("the exponential schedule needs a decay, and no other has one", found, cure, path="decay")
        if len(set(self.seeds)) < len(self.seeds):
            found = ", ".join(map(str, self.seeds))
            raise ConfigError("a spread needs different seeds", found, "name each seed once", path="seeds")
        return self

    @property
    def learning_rate(self) -> float:
        """`lr`, or the task's own for the method."""
        return self.task.learning_rates[self.method.name] if self.lr is None else self.lr

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of one step.

        Args:
            step: counted from 0.
            steps: of the whole run.
        """
        match self.schedule:
            case "constant":
                return self.learning_rate
            case "exponential":
                return self.learning_rate * math.exp(-(self.decay or 0.0) * step)
            case "linear":
                return self.learning_rate * (1 - step / steps)

    def resolved(self) -> RunConfig:
        """The same run with nothing left to a default of the task."""
        budget = {} if any(getattr(self, name) for name in _BUDGETS) else {"epochs": self.task.epochs}
        return self.model_copy(update={"lr": self.learning_rate, **budget})


def read_config(source: Path | None, overrides: Mapping[str, Any]) -> RunConfig:
    """The config in a YAML file, with overrides on top.

    Args:
        source: YAML file; None for an empty one.
        overrides: dotted keys ("method.num_tangents") and values, applied in order.

    Raises:
        ConfigError: the file cannot be read, or a key or value is unknown or wrong.
    """
    return build_config(read_tree(source, overrides, {"method": "forward"}))


def read_tree(source: Path | None, overrides: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values in a YAML file, with `overrides` on top and defaults `below`, not validated yet."""
    tree = dict(below) | (_read_yaml(source) if source is not None else {})
    for key, value in overrides.items():
        _set(tree, key, value)
    return tree


def build_config(tree: Mapping[str, Any]) -> RunConfig:
    """Validates a tree of plain values; ConfigError names the first wrong key and the nearest right one."""
    return validated(tree, RunConfig)


def validated(tree: Mapping[str, Any], kind: type[_C]) -> _C:
    """A tree of plain values as a config of some kind; ConfigError names the first wrong key and the nearest right one.

    Args:
        tree: keys and values.
        kind: the config's class.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, kind) from error


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`["lr=0.1", "method.num_tangents=4"]` as overrides; values are read as YAML."""
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError("--set needs key=value", f"`{setting}`", "write for example --set lr=0.1")
        overrides[key.strip()] = plain_value(key, value)
    return overrides


def plain_value(key: str, text: str) -> object:
    """A value as YAML has it: `0.1` a number, `true` a truth, `[0, 1]` a list; `key` says where it stands."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            "a setting, such as one of --set, needs a YAML value", f"`{text}`", "quote it", path=key
        ) from error


def _read_yaml(source: Path) -> dict[str, Any]:
    needs = "a config needs a readable YAML file of keys and values"
    try:
        tree = yaml.safe_load(source.read_text(encoding="utf-8"))
    except OSError as error:
        found, cure = error.strerror or str(error), "check the path"
        raise ConfigError(needs, found, cure, path=str(source)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        found = " ".join(str(error).split())
        raise ConfigError(needs, found, "mend that place", path=str(source)) from error
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(needs, f"a {type(tree).__name__}", "write `key: value` lines", path=str(source))
    return tree


def _set(tree: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        below = tree.get(parent)
        # `method: forward` in the file and `method.num_tangents=4` on top of it belong together.
        below = {"name": below} if isinstance(below, str) else below or {}
        if not isinstance(below, dict):
            cure = f"set `{parent}` itself"
            raise ConfigError("a dotted key needs keys below it", f"the value {below}", cure, path=key)
        below = dict(below)
        tree[parent] = below
        tree = below
    old = tree.get(last)
    if not (isinstance(old, dict) and old.get("name") == value):  # the same name again keeps its settings
        tree[last] = value


def _explain(error: ValidationError, kind: type[BaseModel]) -> ConfigError:
    # Unknown keys first: a misspelt key is often the reason why another one is missing.
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    # pydantic puts the chosen branch of a union into the place; people did not write it.
    location = problem["loc"]
    place = [str(part) for i, part in enumerate(location) if not (part in _BRANCHES and _is_choice(location[i - 1]))]
    path = ".".join(place)
    match problem["type"]:
        case "extra_forbidden":
            known = _model_at(location, kind).model_fields
            cure = nearest(place[-1], known)
            return ConfigError("a config needs known keys", "an unknown one", cure, path=path)
        case "literal_error" | "union_tag_invalid":
            context = problem["ctx"]
            names = str(context.get("expected") or context["expected_tags"]).replace(" or ", ", ").split(", ")
            found = context.get("tag", problem["input"])
            cure = nearest(str(found), [name.strip("'") for name in names])
            return ConfigError("a config needs known names", f"`{found}`", cure, path=path)
        case "value_error":  # a ConfigError of the validator above
            return problem["ctx"]["error"]
        case _:
            wanted = problem["msg"].removeprefix("Input should be ").split(",")[0]
            cure = f"give one that is {wanted}" if wanted in problem["msg"][16:] else f"mind that {wanted.lower()}"
            return ConfigError("a config needs values that fit", f"`{problem['input']}`", cure, path=path)


def _is_choice(before: int | str) -> bool:
    return before in ("task", "method") or isinstance(before, int)


def _model_at(location: tuple[int | str, ...], kind: type[BaseModel]) -> type[BaseModel]:
    for part in location[:-1]:
        inner = kind.model_fields[part].annotation if part in kind.model_fields else _BRANCHES.get(part)
        # `Probe | None` has one model in it; a union of several is told apart by its branch, the next part.
        inside = [one for one in (inner, *get_args(inner)) if isinstance(one, type) and issubclass(one, BaseModel)]
        if len(inside) == 1:
            kind = inside[0]
    return kind
