r"""The table of layer rules: how cotangents pass a layer, backwards as usual and forwards by its inverse Jacobian.

With :math:`y = f(x; \theta)` and its Jacobian J of shape [n_y, n_x], a cotangent h (a row vector) goes

* back by :math:`h_x = h_y J`, the vector-Jacobian product;
* forth by :math:`h_y = h_x J^+`, the vector-inverse-Jacobian product (vijp), where J has full row rank: the layer is
  then called submersive, and :math:`J J^+ = I` makes the vijp undo the vjp.

A family of layers is one file in `rules/`, which decorates its rule with the layers' types.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor, nn

from forwardgrad.errors import UnsupportedError
from forwardgrad.objective import Link


class Swept(NamedTuple):
    """What a layer gives on the way forth.

    Args:
        y: its output.
        h: dL/dy, from dL/dx by the vijp.
        grads: dL/dtheta, by the parameters' names inside the layer.
    """

    y: Tensor
    h: Tensor
    grads: Mapping[str, Tensor]


class LayerRule(Protocol):
    """How cotangents pass one kind of layer."""

    inverts: bool
    """Whether `pull` needs the layer's output, and gives its input back."""

    def admit(self, layer: Any) -> str:
        """What this very layer would have to be for its Jacobian to be inverted here; empty where it is that."""

    def keep(self, layer: Any, x: Tensor, y: Tensor) -> Any:
        """The little that `pull` needs: nothing for linear maps, a bit an entry for a leaky ReLU."""

    def pull(self, layer: Any, kept: Any, y: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """(dL/dx, x) out of dL/dy; x only from layers that invert."""

    def sweep(self, layer: Any, x: Tensor, h: Tensor, wanted: Collection[str]) -> Swept:
        """Output, dL/dy and the gradients of the parameters named, out of x and dL/dx."""


RULES: dict[type[nn.Module], LayerRule] = {}
Kind = TypeVar("Kind", bound=Callable[[], LayerRule])


def layer_rule(*layers: type[nn.Module]) -> Callable[[Kind], Kind]:
    """Registers the decorated class as the rule of these layers, and of no subclass: a subclass may do more.

    Args:
        layers: types of modules.
    """

    def register(kind: Kind) -> Kind:
        for layer in layers:
            RULES[layer] = kind()
        return kind

    return register


def rules_of(method: object, links: Sequence[Link], exempt: Collection[int] = ()) -> list[LayerRule | None]:
    """The rule of each layer of a chain; None for a first layer that needs none.

    Args:
        method: for the sentence.
        links: the chain.
        exempt: places where a layer without a rule is allowed.

    Raises:
        UnsupportedError: a layer without a rule, or of a kind whose Jacobian has no right inverse here.
    """
    found: list[LayerRule | None] = []
    for place, link in enumerate(links):
        rule = RULES.get(type(link.layer))
        wanted = "a layer with an inverse-Jacobian rule" if rule is None else rule.admit(link.layer)
        if wanted and place not in exempt:
            known = ", ".join(sorted(kind.__name__ for kind in RULES))
            raise UnsupportedError(
                f"{type(method).__name__} needs {wanted}",
                repr(link.layer).partition("\n")[0],
                f"take one of {known} there, put the layer inside a Coupling, or use fg.CheckpointedBackprop",
                path=link.path,
            )
        found.append(None if wanted else rule)
    return found
