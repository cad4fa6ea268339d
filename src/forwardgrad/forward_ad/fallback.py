"""Operations without a rule: PyTorch's own forward derivative, mapped over the K tangents, and counted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils._pytree import tree_flatten, tree_unflatten

from forwardgrad.errors import StrictError, UnsupportedError
from forwardgrad.forward_ad.composite import is_composite, push_body
from forwardgrad.forward_ad.dual import Dual, Trace, dispatch, is_differentiable, provenance

_SCRIPTED = (torch.jit.ScriptFunction, torch.ScriptMethod, torch.jit.ScriptModule)


def push_unruled(func: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """Pushes a function that no rule knows: (f(x), J_f(x) dx_k for every k) by ``vmap(jvp(f))``.

    Raises:
        UnsupportedError: f has no forward derivative, or is scripted.
        StrictError: the push is strict.
    """
    out = kwargs.get("out")
    if out is not None:
        from forwardgrad.forward_ad.rules.inplace import write_out

        rest = {name: value for name, value in kwargs.items() if name != "out"}
        return write_out(out, dispatch(func, args, rest))
    name = operation_name(func)
    reach, trace = provenance_of_leaves(args, kwargs)
    if isinstance(func, _SCRIPTED):
        raise UnsupportedError(
            needs="a push needs Python code that it can follow",
            found=f"the scripted function `{name}`",
            cure="use the unscripted module, or freeze what comes before it",
            path=trace.locate(),
        )
    if is_composite(func):
        return push_body(func, args, kwargs, trace)
    if name.endswith("_") and not name.endswith("__"):
        raise UnsupportedError(
            needs="an operation that writes in place needs a rule, or its tangent would be lost",
            found=f"`{name}` without one",
            cure="use the out-of-place operation",
            path=trace.locate(),
        )
    note_fallback(trace, name)
    leaves, spec = tree_flatten((args, dict(kwargs)), is_leaf=lambda x: isinstance(x, Dual))
    duals = [i for i, leaf in enumerate(leaves) if type(leaf) is Dual]
    primals = [leaf.primal if type(leaf) is Dual else leaf for leaf in leaves]

    def call(*moved: Tensor) -> tuple[list[Any], Any]:
        filled = list(primals)
        for i, x in zip(duals, moved, strict=True):
            filled[i] = x
        call_args, call_kwargs = tree_unflatten(filled, spec)
        return tree_flatten(func(*call_args, **call_kwargs))

    points = tuple(primals[i] for i in duals)
    with same_randomness(points[0].device) as rewind:
        flat, out_spec = call(*points)
        moving = [i for i, y in enumerate(flat) if is_differentiable(y)]
        if not moving:
            return tree_unflatten(flat, out_spec)
        if misled(func, name, args, kwargs):
            raise UnsupportedError(
                needs="forward mode needs a right derivative of every operation on the perturbed path",
                found=f"`{name}`, to which PyTorch's forward mode gives a wrong one in silence",
                cure="register a rule with forwardgrad.forward_ad.rule, rewrite it from plain operations, or use SPSA",
                path=trace.locate(),
            )
        rewind()
        tangents = push_stock(
            lambda *x: tuple(call(*x)[0][i] for i in moving),
            points,
            tuple(leaves[i].dense() for i in duals),
            name,
            trace,
        )
    for i, dy in zip(moving, tangents, strict=True):
        y = flat[i]
        # What vmap expands over K cannot be written to in place; nor can a view, whose tangent is none.
        flat[i] = Dual(y, dy.contiguous() if 0 in dy.stride() else dy, reach, trace)
        for x in (leaves[j] for j in duals) if y._is_view() else ():
            if y.untyped_storage()._cdata == x.primal.untyped_storage()._cdata:
                flat[i].apart = x.apart = True
    return tree_unflatten(flat, out_spec)


def misled(func: Callable, name: str, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """Whether PyTorch's forward mode would be wrong, and say nothing (seen with 2.13).

    A custom operator that is not made of others loses its tangents, whatever backward was registered for it.
    """
    if isinstance(func, OpOverloadPacket):
        func = getattr(func, func.overloads()[0])
    if isinstance(func, OpOverload) and func.namespace not in ("aten", "prims"):
        return not func.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)
    plain = name.rpartition(".")[2]
    if plain == "scatter_reduce":
        return any(isinstance(x, str) and x == "prod" for x in (*args, *kwargs.values()))
    return plain == "triangular_solve"


def push_stock(
    f: Callable[..., tuple[Tensor, ...]],
    points: tuple[Tensor, ...],
    tangents: tuple[Tensor, ...],
    name: str,
    trace: Trace,
) -> tuple[Tensor, ...]:
    """The K tangents of f's outputs by PyTorch's forward mode: mapped where vmap can, one by one where it cannot."""

    def one(*dx: Tensor) -> tuple[Tensor, ...]:
        return torch.func.jvp(f, points, dx)[1]

    try:
        try:
            if trace.num_tangents == 1:  # vmap would only add its own overhead and gaps
                return tuple(dy[None] for dy in one(*(dx[0] for dx in tangents)))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop")  # the trace has counted it
                return torch.vmap(one, randomness="same")(*tangents)
        except NotImplementedError:
            raise
        except RuntimeError:
            each = [one(*(dx[k] for dx in tangents)) for k in range(trace.num_tangents)]
            return tuple(torch.stack(dys) for dys in zip(*each, strict=True))
    except (NotImplementedError, RuntimeError) as error:
        raise UnsupportedError(
            needs="forward mode needs a derivative of every operation on the perturbed path",
            found=f"`{name}`, for which PyTorch has none ({str(error).splitlines()[0][:160]})",
            cure="register a rule with forwardgrad.forward_ad.rule, rewrite it from plain operations, or use fg.SPSA",
            path=trace.locate(),
        ) from error


@contextmanager
def same_randomness(device: torch.device) -> Iterator[Callable[[], None]]:
    """Lets two evaluations draw the same random numbers: call the yielded function between them."""
    cpu = torch.get_rng_state()
    gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def rewind() -> None:
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu, device)

    yield rewind


def note_fallback(trace: Trace, name: str) -> None:
    """Counts an operation that had no rule, remembering where it was first met; an error in a strict push."""
    if trace.strict:
        raise StrictError(
            needs="strict=True needs a rule for every operation",
            found=f"`{name}` without one",
            cure="register a rule with forwardgrad.forward_ad.rule, or drop strict",
            path=trace.locate(),
        )
    if name not in trace.fallbacks:
        trace.fallback_paths[name] = trace.locate()
    trace.fallbacks[name] = trace.fallbacks.get(name, 0) + 1


def operation_name(func: Any) -> str:
    """A readable name of a torch function."""
    if isinstance(func, (OpOverload, OpOverloadPacket)):
        return str(func)
    return getattr(func, "__qualname__", None) or getattr(func, "__name__", None) or type(func).__name__


def provenance_of_leaves(args: tuple, kwargs: Mapping[str, Any]) -> tuple[int, Trace]:
    """Like `provenance`, also for Duals deep inside containers."""
    leaves, _ = tree_flatten((args, dict(kwargs)), is_leaf=lambda x: isinstance(x, Dual))
    return provenance(leaves, {})
