"""The methods a config can name: one small class of settings each, which knows how to build the method.

A new method is a class here and a line in the union below. `exact` says whether its gradient is backprop's, `fused`
whether the optimizer steps inside the backward pass.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field
from torch import nn

from forwardgrad import methods
from forwardgrad.estimate import Method
from forwardgrad.slopes import Jvp
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
    then safe, and the best one larger. `chunk_size` is how many tangents are pushed at once: all, where unset.
    """

    exact: ClassVar[bool] = False
    fused: ClassVar[bool] = False
    name: Literal["forward"] = "forward"
    num_tangents: PositiveInt = 1
    tangents: Tangents = "rank_one"
    combine: Literal["mean", "project", "mmse"] = "mean"
    scale: Scale = "mmse"
    chunk_size: PositiveInt | None = None

    def build(self, model: nn.Module) -> Method:
        """The method itself; `model` is what it will train."""
        return methods.ForwardGradient(
            num_tangents=self.num_tangents,
            tangents=self.tangents,
            combine=self.combine,
            scale=self.scale,
            chunk_size=self.chunk_size,
        )


class Control(Strict):
    """Forward gradient around a memory of the gradient, which learns from every slope; `chunk_size` as above."""

    exact: ClassVar[bool] = False
    fused: ClassVar[bool] = False
    name: Literal["control"] = "control"
    num_tangents: PositiveInt = 16
    tangents: Tangents = "rank_one"
    scale: Literal["memory", "unbiased"] | PositiveFloat = "unbiased"
    chunk_size: PositiveInt | None = None

    def build(self, model: nn.Module) -> Method:
        """The method itself; `model` is what it will train."""
        slope = Jvp(self.chunk_size)
        return methods.ControlVariate(self.num_tangents, self.tangents, slope=slope, scale=self.scale)


AnyMethod = Backprop | Checkpointed | Spsa | Forward | Control
MethodChoice = Annotated[AnyMethod, Field(discriminator="name"), BeforeValidator(spelled_out)]
CHOICES: tuple[type[AnyMethod], ...] = get_args(AnyMethod)


def in_chunks(choice: AnyMethod, size: int | None) -> AnyMethod:
    """The same method with `size` tangents pushed at once; a method that pushes none is given back as it is."""
    return choice.model_copy(update={"chunk_size": size}) if hasattr(choice, "chunk_size") else choice


def halved(choice: AnyMethod) -> AnyMethod | None:
    """The same method with half as many tangents pushed at once; None where there is no less than it has."""
    pushed: Any = choice
    if not hasattr(choice, "chunk_size"):
        return None
    size = min(pushed.chunk_size or pushed.num_tangents, pushed.num_tangents)
    return in_chunks(choice, size // 2) if size > 1 else None
