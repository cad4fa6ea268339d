"""Tasks, one file each. A new task is a file and a line in the union below."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from forwardgrad.train.strict import spelled_out
from forwardgrad.train.tasks.digits import Digits
from forwardgrad.train.tasks.fashion_mnist import FashionMnist
from forwardgrad.train.tasks.mnist import Mnist

AnyTask = Digits | Mnist | FashionMnist
TaskChoice = Annotated[AnyTask, Field(discriminator="name"), BeforeValidator(spelled_out)]
