"""Which client perturbs which layers: a pure function of names and numbers, so that nobody needs to be told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from forwardgrad.errors import InputError


@runtime_checkable
class Split(Protocol):
    """Shares a model's parameters out among the clients of a round."""

    def __call__(self, names: Iterable[str], slots: int, step: int) -> list[tuple[str, ...]]:
        """The names that each client perturbs, [slots] tuples; a client may have none, a name several clients.

        Args:
            names: of the trained parameters, in the model's order.
            slots: clients of the round, at least 1.
            step: which round.

        Raises:
            InputError: no names, or no client.
        """


@dataclass(frozen=True)
class LayerSplit:
    """Layers go round the clients, as in Spry; more clients than layers share them, and are averaged.

    A layer is a module with trained parameters; the two matrices of a LoRA adapter belong to the layer they adapt.

    Args:
        rotate: begin one client further on every round, so that in turn every client trains every layer. Without it
            a layer learns from the same clients for ever, and where these are unlike the others that is a bias.

    References:
        | Thinking Forward: Memory-Efficient Federated Finetuning of Language Models (Panchal et al., 2024),
          arXiv 2405.15551
    """

    rotate: bool = True

    def __call__(self, names: Iterable[str], slots: int, step: int) -> list[tuple[str, ...]]:
        layers = list(by_layer(names).values())
        _check(len(layers), slots)
        shares: list[tuple[str, ...]] = [()] * slots
        for i in range(max(len(layers), slots)):
            shares[(i + (step if self.rotate else 0)) % slots] += layers[i % len(layers)]
        return shares


@dataclass(frozen=True)
class EveryLayer:
    """Every client perturbs everything, along directions of its own: plain averaging, as in FedFGD and FedMeZO."""

    def __call__(self, names: Iterable[str], slots: int, step: int) -> list[tuple[str, ...]]:
        every = tuple(names)
        _check(len(every), slots)
        return [every] * slots


def by_layer(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Parameter names by the path of the layer they belong to, "" for the model's own.

    Args:
        names: as `named_parameters` gives them.
    """
    layers: dict[str, tuple[str, ...]] = {}
    for name in names:
        path = name.partition(".lora_")[0] if ".lora_" in name else name.rpartition(".")[0]
        layers[path] = (*layers.get(path, ()), name)
    return layers


def _check(parameters: int, slots: int) -> None:
    if not parameters:
        raise InputError("a split needs trained parameters", "none", "leave requires_grad on for some")
    if slots < 1:
        raise InputError("a split needs at least one client", f"slots={slots}", "wait until one is there")
