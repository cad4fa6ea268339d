"""A gradient kept as a product of thin factors, which stock optimizers take for an ordinary tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.gradient.factors import Factors


@dataclass
class Inside:
    """What a gradient and its aliases (`detach`, `.data`) share, so that a write through one shows in all."""

    content: Factors | Tensor
    densified: int = 0


class FactoredGradient(Tensor):
    """The gradient L diag(w) R^T, reshaped, whose entries are never written out unless somebody asks for
    them.

    As `p.grad` it goes through stock optimizers, clipping and GradScaler. Norm, scaling, negation, sums of
    factored gradients, casts, clone, detach and zero_ stay factored, and `param.add_(grad, alpha=-lr)` is one
    in-place matrix product with no temporary of the parameter's size. Any other operation works on a dense
    tensor made for it alone; only views, and in-place operations that leave the form, make the inside dense
    for good. A sum keeps the smaller form, so accumulation and momentum never outgrow the parameter.

    Args:
        left: L, [m, R], m = shape[0].
        right: R, [n, R], n = prod(shape[1:]), row-major over shape[1:].
        weights: w, [R]; kept in float32 or wider, so that repeated scaling loses nothing.
        shape: the parameter's shape, of at least one dimension.

    Raises:
        InputError: factors whose shapes, dtypes or devices do not fit together.
    """

    # Without torch's wrapping of every result in this class: results are what the operations below return.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    inside: Inside

    def __new__(cls, left: Tensor, right: Tensor, weights: Tensor, shape: Sequence[int]) -> FactoredGradient:
        rank = weights.numel()
        wanted = ((shape[0], rank), (prod(shape[1:]), rank), (rank,))
        factors = (left, right, weights)
        fit = (left.shape, right.shape, weights.shape) == wanted and left.dtype == right.dtype
        if not fit or not left.device == right.device == weights.device:
            raise InputError(
                needs=f"FactoredGradient needs factors of shapes {wanted}, of one dtype, on one device",
                found=", ".join(f"{tuple(f.shape)} {f.dtype} on {f.device}" for f in factors),
                cure="pass left [m, R], right [n, R] and weights [R]",
            )
        wide = torch.promote_types(weights.dtype, torch.float32)
        weights = weights if weights.dtype == wide else weights.to(wide)
        return cls.around(Inside(Factors(left, right, weights)), shape, left)

    @classmethod
    def around(cls, inside: Inside, shape: Sequence[int], like: Tensor) -> FactoredGradient:
        """A new wrapper of the given shape, with the dtype and device of `like`."""
        made = Tensor._make_wrapper_subclass(cls, torch.Size(shape), dtype=like.dtype, device=like.device)
        made.inside = inside
        return made

    @property
    def factors(self) -> Factors | None:
        """The factors, or None once an operation has made the inside dense."""
        content = self.inside.content
        return content if isinstance(content, Factors) else None

    @property
    def is_factored(self) -> bool:
        """Whether there still are factors."""
        return self.factors is not None

    @property
    def left(self) -> Tensor:
        """L, [m, R]."""
        return self._known().left

    @property
    def right(self) -> Tensor:
        """R, [n, R]."""
        return self._known().right

    @property
    def weights(self) -> Tensor:
        """w, [R], float32 or wider."""
        return self._known().weights

    @property
    def densified(self) -> int:
        """How many times a tensor of the parameter's size was made from the factors."""
        return self.inside.densified

    def densify(self) -> Tensor:
        """The gradient as an ordinary tensor: a fresh one, or the inside itself where that is dense."""
        content = self.inside.content
        if isinstance(content, Tensor):
            return content
        self.inside.densified += 1
        return content.product().view(self.shape)

    def numpy(self, *, force: bool = False) -> Any:
        """The densified gradient as an array."""
        return self.densify().numpy(force=force)

    def tolist(self) -> Any:
        """The densified gradient as nested lists."""
        return self.densify().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        form = f"rank={self.factors.rank}" if self.factors else "dense inside"
        return f"FactoredGradient({tuple(self.shape)}, {form}, dtype={self.dtype}, device='{self.device}')"

    def __deepcopy__(self, memo: dict[int, Any]) -> FactoredGradient:
        content = self.factors.cloned() if self.factors else self.densify().clone()
        memo[id(self)] = copied = self.around(Inside(content, self.densified), self.shape, self)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.factors is None:
            return self.densify().__reduce_ex__(protocol)
        # Cloned, for a factor is a view of the whole draw, and pickle would store all of that.
        own = self.factors.cloned()
        return FactoredGradient, (own.left, own.right, own.weights, tuple(self.shape))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        from forwardgrad.gradient.dispatch import run  # here, because the rules need this class

        return run(func, args, kwargs or {})

    def _known(self) -> Factors:
        if self.factors is None:
            raise InputError(
                needs="left, right and weights need a gradient that is still factored",
                found=repr(self),
                cure="check is_factored first, or call densify()",
            )
        return self.factors


# torch.load refuses classes it does not know, and an optimizer's momentum buffer may be of this one.
torch.serialization.add_safe_globals([FactoredGradient])
