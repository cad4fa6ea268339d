"""Tasks, one file each. A new task is a file and a line in the union below."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import BeforeValidator, Field

from forwardgrad.train.strict import spelled_out
from forwardgrad.train.tasks.ag_news import AgNews
from forwardgrad.train.tasks.channel import ChannelFlow
from forwardgrad.train.tasks.cifar10 import Cifar10
from forwardgrad.train.tasks.digits import Digits
from forwardgrad.train.tasks.fashion_mnist import FashionMnist
from forwardgrad.train.tasks.functions import Beale, Rosenbrock, Sphere, StyblinskiTang
from forwardgrad.train.tasks.mnist import Mnist
from forwardgrad.train.tasks.shakespeare import TinyShakespeare
from forwardgrad.train.tasks.spoken_digits import SpokenDigits
from forwardgrad.train.tasks.sst2 import Sst2

AnyTask = (
    Digits
    | Mnist
    | FashionMnist
    | Sphere
    | Rosenbrock
    | StyblinskiTang
    | Beale
    | TinyShakespeare
    | Cifar10
    | SpokenDigits
    | Sst2
    | AgNews
    | ChannelFlow
)  # fmt: skip
TaskChoice = Annotated[AnyTask, Field(discriminator="name"), BeforeValidator(spelled_out)]
TASKS: dict[str, type[AnyTask]] = {choice.model_fields["name"].default: choice for choice in get_args(AnyTask)}
