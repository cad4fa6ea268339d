"""MeZO (Malladi et al. 2023), as its public code runs it: a draw is named by a seed and never stored.

Every pass over the weights draws again: perturb, perturb back twice as far, restore, and once more for the update.
The draws are those of `torch.manual_seed(seed)` and `torch.normal`, in the order of the parameters, so that weights
can be held against those of github.com/princeton-nlp/MeZO after the same step. Its `param.data = param.data + ...`
is written in place here, which only makes it faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Generator, Tensor


class Mezo:
    """Args:
    params: that are trained; written in place, and back up to rounding.
    loss: evaluated on the weights as they are.
    eps: how far the weights are moved.
    """

    def __init__(self, params: Mapping[str, Tensor], loss: Callable[[], Tensor], eps: float = 1e-3) -> None:
        self.params, self.loss, self.eps = params, loss, eps

    @torch.no_grad()
    def slope(self, seed: int) -> Tensor:
        """The central difference of losses along the draw of this seed, []."""
        self._move(seed, self.eps)
        above = self.loss()
        self._move(seed, -2 * self.eps)
        slope = (above - self.loss()) / (2 * self.eps)
        self._move(seed, self.eps)
        return slope

    @torch.no_grad()
    def update(self, slope: Tensor, lr: float, seed: int) -> None:
        """One step of plain SGD, its gradient drawn again."""
        self._move(seed, -lr * float(slope))

    @torch.no_grad()
    def gradient(self, slope: Tensor, seed: int) -> dict[str, Tensor]:
        """The estimate written out, for whoever reads `p.grad`; MeZO itself needs none."""
        return {name: z.mul_(slope) for name, z in self._draw(seed)}

    def _draw(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        generator: Generator | None = None
        for name, p in self.params.items():
            generator = generator or Generator(p.device).manual_seed(seed)
            yield name, torch.empty_like(p).normal_(generator=generator)

    def _move(self, seed: int, length: float) -> None:
        for name, z in self._draw(seed):
            self.params[name].add_(z, alpha=length)
