"""The methods a config can name: one small class of settings each, which knows how to build the method.

A new method is a class here and a line in the union below. `exact` says whether its gradient is backprop's, `fused`
whether the optimizer steps inside the backward pass.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field
from torch import nn

from forwardgrad import methods
from forwardgrad.estimate import Method
from forwardgrad.train.strict import PositiveFloat, PositiveInt, Strict, spelled_out

Tangents = Literal["rank_one", "rademacher", "gaussian", "sphere", "orthonormal", "coordinate"]
Scale = Literal["unbiased", "mmse"] | PositiveFloat


class Backprop(Strict):
    """Exact gradient by reverse mode; holds every activation."""

    exact: ClassVar[bool] = True
    fused: ClassVar[bool] = False
    name: Literal["backprop"] = "backprop"

    def build(self, model: nn.Module) -> Method:
        """The method itself; `model` is what it will train."""
        return methods.Backprop()


class Checkpointed(Strict):
    """Exact gradient by reverse mode; recomputes activations instead of holding them."""

    exact: ClassVar[bool] = True
    name: Literal["checkpointed"] = "checkpointed"
    fused: bool = False

    def build(self, model: nn.Module) -> Method:
        """The method itself; `model` is what it will train."""
        return methods.CheckpointedBackprop(fused=self.fused)


class Spsa(Strict):
    """Slopes from two function values each; knows nothing but values."""

    exact: ClassVar[bool] = False
    fused: ClassVar[bool] = False
    name: Literal["spsa"] = "spsa"
    num_tangents: PositiveInt = 1
    eps: PositiveFloat = 1e-3
    scale: Scale = "mmse"

    def build(self, model: nn.Module) -> Method:
        """The method itself; `model` is what it will train."""
        return methods.SPSA(eps=self.eps, num_tangents=self.num_tangents, scale=self.scale)


class Forward(Strict):
    """Forward gradient: exact slopes along K random tangents, no tape.

    `scale="mmse"` shrinks the estimate, which is sqrt(n/K) times as long as the gradient: backprop's learning rate is
    then safe, and the best one larger.
    """

    exact: ClassVar[bool] = False
    fused: ClassVar[bool] = False
    name: Literal["forward"] = "forward"
    num_tangents: PositiveInt = 1
    tangents: Tangents = "rank_one"
    combine: Literal["mean", "project", "mmse"] = "mean"
    scale: Scale = "mmse"

    def build(self, model: nn.Module) -> Method:
        """The method itself; `model` is what it will train."""
        return methods.ForwardGradient(
            num_tangents=self.num_tangents, tangents=self.tangents, combine=self.combine, scale=self.scale
        )


class Control(Strict):
    """Forward gradient around a memory of the gradient, which learns from every slope."""

    exact: ClassVar[bool] = False
    fused: ClassVar[bool] = False
    name: Literal["control"] = "control"
    num_tangents: PositiveInt = 16
    tangents: Tangents = "rank_one"
    scale: Literal["memory", "unbiased"] | PositiveFloat = "unbiased"

    def build(self, model: nn.Module) -> Method:
        """The method itself; `model` is what it will train."""
        return methods.ControlVariate(self.num_tangents, self.tangents, scale=self.scale)


AnyMethod = Backprop | Checkpointed | Spsa | Forward | Control
MethodChoice = Annotated[AnyMethod, Field(discriminator="name"), BeforeValidator(spelled_out)]
CHOICES: tuple[type[AnyMethod], ...] = get_args(AnyMethod)
