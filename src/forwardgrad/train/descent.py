"""The optimizer's side of a training step: after the backward pass, or inside it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import SGD

from forwardgrad.estimate import Apply


class Descent:
    """SGD over all parameters of a model at a learning rate that moves.

    Args:
        model: what is trained.
        lr: learning rate until `move_to` changes it.
        momentum: of SGD.
        fused: step each parameter as soon as its gradient arrives, so that no gradient outlives its layer.
    """

    def __init__(self, model: nn.Module, lr: float, momentum: float, fused: bool) -> None:
        self._lr, self._momentum = lr, momentum
        self._model = model
        self.sink = Apply(self._optimizer) if fused else None
        self._whole = None if fused else self._optimizer(list(model.parameters()))

    def _optimizer(self, parameters: list[Tensor]) -> SGD:
        return SGD(parameters, lr=self._lr, momentum=self._momentum)

    def move_to(self, lr: float) -> None:
        """Sets the learning rate of every optimizer, present or still to come."""
        self._lr = lr
        optimizers = [self._whole] if self._whole else self.sink.optimizers.values() if self.sink else []
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr

    def step(self) -> None:
        """Moves the parameters along their gradients and drops these; nothing is left to do where fused."""
        if self._whole is not None:
            self._whole.step()
            self._whole.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer, or, where fused, of every parameter's own, by name."""
        return self._whole.state_dict() if self._whole else self.sink.state_dict() if self.sink else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        if self._whole is not None:
            self._whole.load_state_dict(state)
        elif self.sink is not None:
            parameters = dict(self._model.named_parameters())
            for name, own in state.items():
                self.sink.optimizers[name] = self._optimizer([parameters[name]])
                self.sink.optimizers[name].load_state_dict(own)
