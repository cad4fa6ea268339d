"""Where a model keeps its parameters, and how other tensors take their places for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


class Slots:
    """The places of a model's parameters: tied parameters are one parameter with several places.

    Args:
        model: any module; it is not changed but inside `swapped`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.params: dict[str, nn.Parameter] = {}
        self.places: dict[str, list[tuple[nn.Module, str]]] = {}
        self.modules = list(model.named_modules())  # walked once: a walk costs as much as a small layer
        self.recurrent = [module for _, module in self.modules if isinstance(module, nn.RNNBase)]
        names: dict[int, str] = {}
        for path, module in self.modules:
            for key, parameter in module._parameters.items():
                if parameter is None:
                    continue
                name = names.get(id(parameter))
                if name is None:
                    name = names[id(parameter)] = f"{path}.{key}" if path else key
                    self.params[name] = parameter
                    self.places[name] = []
                self.places[name].append((module, key))

    @contextmanager
    def swapped(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Puts `values` in the places of the parameters of those names; puts the parameters back whatever happens."""
        try:
            for name, value in values.items():
                for module, key in self.places[name]:
                    module._parameters[key] = value  # type: ignore[assignment] # a Dual, or a shifted weight
            self._refresh()
            yield
        finally:
            for name in values:
                for module, key in self.places[name]:
                    module._parameters[key] = self.params[name]
            self._refresh()

    def _refresh(self) -> None:
        # nn.RNN keeps a second list of its weights, and calls its kernel with that one.
        for module in self.recurrent:
            module._flat_weights = [getattr(module, n, None) for n in module._flat_weights_names]
