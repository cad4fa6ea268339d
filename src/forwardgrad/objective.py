"""The ladder: methods are sorted by how much they may know about the function.

* rung 0, `Objective`: values. Black boxes, integer nets, anything that can be called.
* rung 1, `Differentiable`: pushes tangents forward, (loss, slopes [K]).
* rung 2, `Sited`: names its activations, and predicts and judges apart.
* rung 3, `Chained`: ordered layers, for methods that invert them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from forwardgrad.errors import InputError, NonFiniteError, RungError
from forwardgrad.forward_ad import push_forward
from forwardgrad.tangents import Tangents

Params = Mapping[str, Tensor]

Visit = Callable[[str, Tensor], Tensor]
"""(path of a layer, its input) -> the input that it is to have."""


class Slopes(NamedTuple):
    """What a push gives back.

    Args:
        loss: [].
        slopes: [K], the directional derivatives along the K tangents.
        aux: what the loss function returned beside the loss.
        reached: the parameters on which the loss depends; None where that is not known.
    """

    loss: Tensor
    slopes: Tensor
    aux: Any = None
    reached: frozenset[str] | None = None


class Site(NamedTuple):
    """An activation that a method may perturb or learn from: the output of a layer that holds parameters.

    Args:
        name: the layer's module path.
        layer: the layer itself.
        shape: of the activation, the batch among its dimensions.
        dtype: of the activation.
    """

    name: str
    layer: nn.Module
    shape: torch.Size
    dtype: torch.dtype


class Link(NamedTuple):
    """A layer of a chain.

    Args:
        path: its module path.
        layer: the layer itself.
        names: the objective's names of its trained parameters, by their names inside the layer.
    """

    path: str
    layer: nn.Module
    names: Mapping[str, str]


@runtime_checkable
class Objective(Protocol):
    """Rung 0: a scalar loss of named parameters."""

    def __call__(self, params: Params) -> Tensor:
        """The loss [] at `params`, name -> tensor."""


@runtime_checkable
class Differentiable(Objective, Protocol):
    """Rung 1: also pushes tangents forward."""

    def push(self, params: Params, tangents: Tangents) -> Slopes:
        """The loss [] at `params` and its slopes [K] along the tangents, in one pass."""

    def admit(self, tangents: Tangents) -> Tangents:
        """The tangents with zeros where the objective does not let a parameter move (padding rows)."""

    def replaying(self) -> AbstractContextManager[None]:
        """Inside, every evaluation draws the same randomness; afterwards the state is as after one evaluation."""


@runtime_checkable
class Sited(Differentiable, Protocol):
    """Rung 2: also names its activations, and gives prediction and loss apart."""

    def predict(self, params: Params) -> Any:
        """What the model gives at `params`, before the loss."""

    def loss(self, prediction: Any) -> Tensor:
        """The loss [] of a prediction."""

    def sites(self, params: Params) -> Mapping[str, Site]:
        """The activations in the order of the forward pass, by name."""

    def visiting(self, visit: Visit) -> AbstractContextManager[None]:
        """Inside, an evaluation shows the inputs of its layers with matrices to `visit`, which may replace them."""


@runtime_checkable
class Chained(Sited, Protocol):
    """Rung 3: also an ordered chain of layers whose composition is the prediction, to be run one by one."""

    def chain(self) -> Sequence[Link]:
        """The layers in order."""

    def holding(self, params: Params) -> AbstractContextManager[None]:
        """Inside, the layers hold `params`, and whatever is run counts as one evaluation."""

    def answered(self, answer: Callable[..., Any]) -> Tensor:
        """The loss [] where `answer` stands for the model: it gets the model's input and returns the prediction."""


@dataclass(frozen=True)
class FunctionObjective:
    """Rung 1 from a plain function of a mapping of tensors.

    Args:
        fn: ``fn(params) -> loss []``, made of PyTorch operations. It is called as it is, so that it must draw nothing
            (a dropout mask would differ from one evaluation to the next); `ModuleObjective` replays what a model draws.
        strict: refuse operations without a rule and values read out of tensors.

    Raises:
        InputError: when called, for a loss that is not one real number.
    """

    fn: Callable[[Params], Tensor]
    strict: bool = False

    def __call__(self, params: Params) -> Tensor:
        return scalar(self.fn(params))

    def push(self, params: Params, tangents: Tangents) -> Slopes:
        pushed = push_forward(lambda duals: judged(self.fn(duals)), dict(params), dict(tangents), strict=self.strict)
        loss = scalar(pushed.value)
        return Slopes(loss, pushed.slopes.reshape(-1), pushed.aux, pushed.reached)

    def admit(self, tangents: Tangents) -> Tangents:
        return tangents

    def replaying(self) -> AbstractContextManager[None]:
        return nullcontext()


# What tells each rung apart; asking for the method is much faster than isinstance with a protocol.
_RUNGS: dict[type, tuple[str, str, str]] = {
    Differentiable: (
        "push",
        "tangents pushed forward",
        "wrap it in fg.FunctionObjective, or use fg.SPSA, which needs values only",
    ),
    Sited: (
        "sites",
        "named activations",
        "use fg.ModuleObjective(model, loss_fn, *batch), or fg.ForwardGradient",
    ),
    Chained: (
        "chain",
        "an ordered chain of layers",
        "make the model an nn.Sequential, or use fg.ForwardGradient",
    ),
}


def require(method: object, objective: Any, rung: type) -> Any:
    """The objective, if it stands on the rung; a plain function is lifted to rung 1.

    Raises:
        RungError: the objective does not tell what the method must know.
    """
    told_by, what, cure = _RUNGS[rung]
    if hasattr(objective, told_by):
        return objective
    if rung is Differentiable and callable(objective) and not isinstance(objective, nn.Module):
        return FunctionObjective(objective)
    raise RungError(f"{type(method).__name__} needs {what}", f"{type(objective).__name__}", cure)


def scalar(loss: Any) -> Tensor:
    """The loss as a tensor of shape [].

    Raises:
        InputError: as `one_number`.
    """
    return one_number(loss).reshape(())


def one_number(loss: Any) -> Tensor:
    """The loss as it is, looked at.

    Raises:
        InputError: it is not a tensor, holds more than one number, or none with a derivative.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(
            "the loss needs to be a tensor with one number",
            found,
            "return loss.mean() or loss.sum() from the loss function",
            path="loss",
        )
    if not loss.dtype.is_floating_point:
        raise InputError(
            "the loss needs a real floating point dtype",
            str(loss.dtype),
            "cast it inside the loss function",
            path="loss",
        )
    return loss


def judged(out: Any) -> Any:
    """What a loss function returned, a loss or (loss, aux), with the loss looked at.

    Raises:
        InputError: as `one_number`.
    """
    one_number(out[0] if isinstance(out, tuple) and out else out)
    return out


def finite(loss: Tensor, slopes: Tensor | None = None) -> None:
    """Refuses a loss or a slope that is NaN or infinite, before anything is written.

    Raises:
        NonFiniteError: with which of the two it was.
    """
    if get_proxy_mode() is not None:
        return  # a graph is being traced, which has no numbers yet: they are looked at when it runs
    if not isfinite(loss.item()):
        cure = "look at the batch, lower the learning rate, or clip"
        raise NonFiniteError("an estimate needs a finite loss", f"{loss.item()}", cure, path="loss")
    if slopes is not None and not all(map(isfinite, slopes.tolist())):
        cure = "compute the loss in float32, or lower the scale of the tangents"
        raise NonFiniteError("an estimate needs finite slopes", f"{slopes.tolist()[:8]}", cure, path="slopes")


__all__ = [
    "Chained", "Differentiable", "FunctionObjective", "Link", "Objective", "Params", "Site", "Sited", "Slopes", "Visit",
    "finite", "judged", "require", "scalar",
]  # fmt: skip
