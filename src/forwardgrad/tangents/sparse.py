"""Directions that move only chosen entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.tangents.collection import Tangents
from forwardgrad.tangents.key import Key
from forwardgrad.tangents.kinds import Dense, Kind, Zero
from forwardgrad.tangents.protocol import Sampler


@dataclass(frozen=True, eq=False)
class Sparse:
    """Tangents of `base` over the s entries that a mask keeps, zero elsewhere: E[v v^T] = diag(mask).

    The estimate is unbiased for mask * g, with the variance of `base` in s dimensions in place of n. The base
    sees the kept entries of each parameter as a vector, so its laws (a sphere's radius, orthogonality) hold
    among those.

    Args:
        mask: name -> bool tensor of the parameter's shape, True where it may move; a parameter left out stays
            put.
        base: the sampler for the kept entries.

    References:
        Liu et al. (2024), Sparse MeZO: less parameters for better performance in zeroth-order LLM
        fine-tuning.
    """

    mask: Mapping[str, Tensor]
    base: Sampler

    def __call__(self, params: Mapping[str, Tensor], num_tangents: int, key: Key) -> Tangents:
        """Draws for the kept entries; see `Sampler`.

        Raises:
            InputError: a mask that names no parameter, has another shape, is not bool or keeps nothing at
                all; and whatever `base` refuses.
        """
        kept = self._kept(params)
        # The base reads shape, dtype and device only: an expanded scalar has them and takes no room.
        vectors = {name: params[name].detach().new_empty(()).expand(len(index)) for name, index in kept.items()}
        drawn = self.base(vectors, num_tangents, key)
        kinds: dict[str, Kind] = {}
        for name, param in params.items():
            if name in kept:
                rows = torch.zeros(num_tangents, param.numel(), dtype=param.dtype, device=param.device)
                rows.index_copy_(1, kept[name], drawn[name].dense())
                kinds[name] = Dense(rows.view(num_tangents, *param.shape))
            else:
                kinds[name] = Zero(param.shape, num_tangents, param.dtype, param.device)
        return Tangents(kinds)

    def second_moment(self, n: int, num_tangents: int) -> float:
        """That of `base` in as many dimensions as the mask keeps (not n), relative to |mask * g|^2."""
        return self.base.second_moment(sum(int(mask.sum()) for mask in self.mask.values()), num_tangents)

    def _kept(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """name -> flat positions that may move, for the parameters that have any."""
        kept = {}
        for name, mask in self.mask.items():
            if name not in params or mask.shape != params[name].shape or mask.dtype != torch.bool:
                fits = f"{tuple(params[name].shape)} and torch.bool" if name in params else "no such parameter"
                raise InputError(
                    needs="Sparse needs a bool mask of each parameter's shape",
                    found=f"a mask of shape {tuple(mask.shape)} and {mask.dtype} for {fits}",
                    cure="build it with torch.ones_like(param, dtype=torch.bool)",
                    path=name,
                )
            index = mask.to(params[name].device).reshape(-1).nonzero().squeeze(1)
            if len(index):
                kept[name] = index
        if not kept:
            raise InputError(
                needs="Sparse needs a mask that keeps at least one entry",
                found="none kept",
                cure="set some entries of a mask to True",
            )
        return kept
