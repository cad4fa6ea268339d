"""A `Dual` tensor: one primal and K tangents, pushed together through unmodified PyTorch code.

Legend: K tangents; a primal of shape [*s] carries a tangent of shape [K, *s]. The primal is computed once, however
many tangents travel with it. A parameter's tangent may stay *structured* (rank-one, coordinate, ...: see
`forwardgrad.tangents.kinds`) until an operation needs it dense.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from itertools import chain
from typing import Any, NoReturn

import torch
from torch import Tensor, UntypedStorage
from torch._C._functorch import peek_interpreter_stack

from forwardgrad.errors import UnsupportedError
from forwardgrad.forward_ad.pending import Pending
from forwardgrad.forward_ad.registry import ANSWERS, RULES
from forwardgrad.tangents.kinds import Kind


@dataclass(frozen=True)
class Exit:
    """A place where a tangent was left behind: the operation, the module path, and the parameters concerned."""

    operation: str
    path: str
    reach: int


@dataclass
class Trace:
    """The diary of one push: how many tangents, what fell back, what left, which parameters are travelling.

    Args:
        num_tangents: K.
        names: parameter names; bit i of a Dual's `reach` stands for names[i].
        strict: raise at the first fallback or exit.
        locate: gives the path of the module now running, for messages.
    """

    num_tangents: int
    names: tuple[str, ...] = ()
    strict: bool = False
    locate: Callable[[], str] = lambda: ""
    fallbacks: dict[str, int] = field(default_factory=dict)
    fallback_paths: dict[str, str] = field(default_factory=dict)
    densified: int = 0
    exits: list[Exit] = field(default_factory=list)
    parameters: dict[int, str] = field(default_factory=dict)  # storage -> parameter name: never written to
    shadows: dict[int, Shadow] = field(default_factory=dict)  # storage -> tangent of a plain tensor written to
    pending: list[weakref.ref[Dual]] = field(default_factory=list)  # whose tangents are not multiplied yet
    refused: UnsupportedError | None = None  # said inside code that wraps errors in its own

    def named(self, reach: int) -> list[str]:
        """The parameter names whose bits are set in `reach`."""
        return [name for i, name in enumerate(self.names) if reach >> i & 1]

    def multiply(self) -> None:
        """Multiplies what is pending, before something is written that it may be made of."""
        waiting, self.pending = self.pending, []
        for ref in waiting:
            if (dual := ref()) is not None:
                dual.dense()


@dataclass
class Shadow:
    """The tangent of a plain tensor into which a Dual was written, laid over its whole storage; it dies with it."""

    dtype: torch.dtype  # of the tensor
    watch: weakref.ref[UntypedStorage]  # whose callback takes the shadow away before the address is used again
    tangent: Tensor  # [K, numel of the storage]
    reach: int = 0


class Dual(Tensor):
    """A tensor that carries K tangents; every torch function on it goes through `dispatch`.

    Args:
        primal: [*s], a plain tensor.
        tangent: [K, *s], a plain tensor, or a structured `Kind`.
        reach: bit set of the parameters whose tangents are in here.
        trace: the push this belongs to.
    """

    primal: Tensor
    tangent: Tensor | Kind | Pending
    reach: int
    diary: Trace  # not `trace`, which is a tensor's method
    apart = False  # a view of this, or what this views, has its tangent in other memory: no writing in place

    @staticmethod
    def __new__(cls: type[Dual], primal: Tensor, tangent: Tensor | Kind | Pending, reach: int, trace: Trace) -> Dual:
        self = Tensor._make_wrapper_subclass(cls, primal.shape, dtype=primal.dtype, device=primal.device)
        self.primal = primal
        self.tangent = tangent
        self.reach = reach
        self.diary = trace
        if type(tangent) is Pending:
            trace.pending.append(weakref.ref(self))
        return self

    def dense(self) -> Tensor:
        """The tangent as [K, *s]; a structured one is written out, and counted."""
        tangent = self.tangent
        if isinstance(tangent, Tensor):
            return tangent
        if type(tangent) is Pending:
            self.tangent = made = tangent.dense()
            return made
        self.diary.densified += 1
        return tangent.dense()

    @classmethod
    def __torch_function__(
        cls,
        func: Callable,
        types: tuple[type, ...],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return dispatch(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Callable,
        types: tuple[type, ...],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # Only code that goes round torch functions (functorch transforms, C++ extensions, scripted code) comes here.
        trace = next((a.diary for a in args if isinstance(a, Dual)), None)
        error = UnsupportedError(
            needs="a pushed-forward tensor needs operations that PyTorch lets a subclass see",
            found=f"`{func}` called from below (a functorch transform, scripted or compiled code)",
            cure="call the plain operation (fg.inner_gradient for a gradient), or keep it out of the perturbed path",
            path=trace.locate() if trace else "",
        )
        if trace is not None:
            trace.refused = error
        raise error


NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}  # which PyTorch takes as well


def dispatch(func: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """Pushes one torch function: by its rule where there is one, by the fallback where there is none.

    Raises:
        UnsupportedError: inside a functorch transform (grad, vmap, jvp), which cannot see a Dual's tangents.
    """
    if peek_interpreter_stack() is not None and not torch.compiler.is_compiling():
        refuse_transform(func, args, kwargs)
    rule = RULES.get(func)
    if rule is not None and (not kwargs or kwargs.get("out") is None):
        try:
            result = rule(*args, **kwargs)
        except TypeError:
            if accepts(rule, args, kwargs):
                raise
            if not NUMPY_NAMES.keys().isdisjoint(kwargs):
                return dispatch(func, args, {NUMPY_NAMES.get(name, name): x for name, x in kwargs.items()})
            result = NotImplemented
        if type(result) is tuple:
            y, dy = result
            if dy is None:
                return y
            reach, trace = provenance(args, kwargs)
            return Dual(y, dy, reach, trace)
        if type(result) is list:
            reach, trace = provenance(args, kwargs)
            return tuple(
                p if type(p) is not tuple else p[0] if p[1] is None else Dual(*p, reach, trace) for p in result
            )
        if result is not NotImplemented:
            return result
    elif rule is None and (answer := ANSWERS.get(func)) is not None:
        return answer(*args, **kwargs)
    from forwardgrad.forward_ad.fallback import push_unruled  # the cold path; it imports this module

    return push_unruled(func, args, kwargs)


def accepts(rule: Callable, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """Whether a rule can be called like this: PyTorch gives some arguments names that a rule does not know."""
    try:
        signature(rule).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def refuse_transform(func: Callable, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """Says that an inner transform cannot be pushed through."""
    _, trace = provenance(args, kwargs)
    raise UnsupportedError(
        needs="torch.func transforms (grad, vmap, jvp) need plain tensors",
        found=f"a pushed-forward one in `{getattr(func, '__name__', func)}` inside such a transform",
        cure="use fg.inner_gradient for a gradient, write batched code out, or keep it out of the perturbed path",
        path=trace.locate(),
    )


def provenance(args: Iterable[Any], kwargs: Mapping[str, Any]) -> tuple[int, Trace]:
    """Which parameters the Duals among the arguments carry, and the push they belong to.

    Raises:
        UnsupportedError: to several pushes, whose tangents have nothing to do with each other.
    """
    reach, trace = 0, None
    for x in chain(args, kwargs.values()):
        if type(x) is Dual:
            reach |= x.reach
            if x.diary is not trace:
                trace = x.diary if trace is None else refuse_mixture(trace)
        elif type(x) is list or type(x) is tuple:
            for item in x:
                if type(item) is Dual:
                    reach |= item.reach
                    if item.diary is not trace:
                        trace = item.diary if trace is None else refuse_mixture(trace)
    assert trace is not None, "a rule made a tangent out of no Dual"
    return reach, trace


def refuse_mixture(trace: Trace) -> NoReturn:
    """Says that Duals of two pushes met."""
    raise UnsupportedError(
        needs="a push needs tensors of its own",
        found="one of another push, kept from an earlier step or coming from outside",
        cure="keep x.detach() between steps; do not push inside a push",
        path=trace.locate(),
    )


def primal(x: Any) -> Any:
    """The primal of a Dual; anything else unchanged."""
    return x.primal if type(x) is Dual else x


def tangent(x: Any) -> Tensor | None:
    """The dense tangent [K, *s] of a Dual; None for anything else."""
    return x.dense() if type(x) is Dual else None


def structure(x: Any) -> Kind | Tensor | None:
    """The tangent as it is, dense or structured; None where there is none."""
    if type(x) is not Dual:
        return None
    held = x.tangent
    return x.dense() if isinstance(held, Pending) else held


def in_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in this dtype: `x.to(dtype)`, which asks longer whether there is anything to do than small layers compute."""
    return x if x.dtype == dtype else x.to(dtype)


def is_differentiable(x: Any) -> bool:
    """Whether x is a tensor that can carry a tangent."""
    return isinstance(x, Tensor) and (x.dtype.is_floating_point or x.dtype.is_complex)


def aligned(tangent: Tensor, ndim: int) -> Tensor:
    """[K, *s] with ones put between K and s, so that it broadcasts against a primal of `ndim` dimensions."""
    missing = ndim + 1 - tangent.ndim
    if missing <= 0:
        return tangent
    return tangent.reshape(tangent.shape[0], *(1,) * missing, *tangent.shape[1:])


def zeros_for(x: Tensor, num_tangents: int) -> Tensor:
    """K zero tangents of x."""
    return torch.zeros((num_tangents, *x.shape), dtype=x.dtype, device=x.device)


def write_through(x: Dual, y: Tensor, dy: Tensor) -> Dual:
    """Writes a value and its tangent into x itself, as an ``inplace=True`` argument asks."""
    from forwardgrad.forward_ad.rules.inplace import write  # it imports this module

    write(x, y, dy, x.reach, x.diary, Tensor.copy_)
    return x
