"""K tangents of all the parameters of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.tangents.kinds import Kind


class Tangents(Mapping[str, Kind]):
    """K tangents v_1 .. v_K of a whole parameter space, one `Kind` per parameter; immutable.

    Args:
        kinds: name -> kind, all of them with the same K and on one device; at least one.

    Raises:
        InputError: no parameter at all, or kinds that disagree about K.
    """

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = dict(kinds)
        counts = {kind.num_tangents for kind in self._kinds.values()}
        if len(counts) != 1:
            raise InputError(
                needs="Tangents needs at least one parameter and the same number of tangents for each",
                found=f"numbers of tangents {sorted(counts)} over {len(self._kinds)} parameters",
                cure="draw them all in one call of a sampler, for parameters with requires_grad",
            )
        self._num_tangents = counts.pop()

    def __getitem__(self, name: str) -> Kind:
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def __repr__(self) -> str:
        kinds = ", ".join(f"{name}: {type(kind).__name__}{tuple(kind.shape)}" for name, kind in self.items())
        return f"Tangents(num_tangents={self.num_tangents}, {{{kinds}}})"

    @property
    def num_tangents(self) -> int:
        """K."""
        return self._num_tangents

    @property
    def numel(self) -> int:
        """n, the number of entries of one tangent over all parameters."""
        return sum(prod(kind.shape) for kind in self._kinds.values())

    def chunk(self, start: int, stop: int) -> Tangents:
        """Tangents start .. stop-1 alone."""
        return Tangents({name: kind.chunk(start, stop) for name, kind in self._kinds.items()})

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tangents:
        """The same tangents in another dtype or on another device."""
        return Tangents({name: kind.to(dtype, device) for name, kind in self._kinds.items()})

    def mask(self, rows: Mapping[str, int | Tensor]) -> Tangents:
        """The same tangents with the given rows (first dimension) of the named parameters set to zero.

        Args:
            rows: name -> row, or a long tensor of rows.

        Raises:
            InputError: a name that is not here.
        """
        self._admit(rows)
        return Tangents({n: k.mask(rows[n]) if n in rows else k for n, k in self._kinds.items()})

    def dense(self) -> dict[str, Tensor]:
        """name -> [K, *shape]."""
        return {name: kind.dense() for name, kind in self._kinds.items()}

    def gram(self) -> Tensor:
        """<v_j, v_k> over all parameters, [K, K] in float64."""
        grams = [kind.gram() for kind in self._kinds.values()]
        return torch.stack(grams).sum(0)

    def weighted_sum(self, weights: Tensor) -> dict[str, Tensor]:
        """name -> sum_k weights[k] v_k, factored where the tangents are rank-one.

        Args:
            weights: [K], floating.
        """
        return {name: kind.weighted_sum(weights) for name, kind in self._kinds.items()}

    def dot(self, grads: Mapping[str, Tensor]) -> Tensor:
        """<v_k, g> over all parameters, [K] in float32 or wider; parameters that `grads` leaves out count as
        zero.

        Args:
            grads: name -> gradient of the parameter's shape, dense or factored.

        Raises:
            InputError: a name that is not here.
        """
        self._admit(grads)
        device = next(iter(self._kinds.values())).device
        total = torch.zeros(self.num_tangents, device=device)
        for name, grad in grads.items():
            total = total + self._kinds[name].dot(grad)
        return total

    def _admit(self, named: Mapping[str, object]) -> None:
        for name in named:
            if name not in self._kinds:
                raise InputError(
                    needs="Tangents needs names of its own parameters",
                    found="an unknown name",
                    cure=f"use one of {', '.join(self._kinds)}",
                    path=name,
                )
