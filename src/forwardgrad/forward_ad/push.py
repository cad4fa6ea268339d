"""Pushing K tangents through a function: value and K directional derivatives in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode
from torch.utils._pytree import tree_map_only

from forwardgrad.errors import ForwardGradError, InputError, LostTangentError, UnsupportedError
from forwardgrad.forward_ad import rules  # noqa: F401 fills the table
from forwardgrad.forward_ad.composite import slow_paths
from forwardgrad.forward_ad.custom import follow_custom_functions
from forwardgrad.forward_ad.dual import Dual, Trace, refuse_mixture, zeros_for
from forwardgrad.forward_ad.mode import Pushing
from forwardgrad.tangents.kinds import Coordinate, Dense, Kind, RankOne, Zero

Primals = Mapping[str, Tensor] | tuple[Tensor, ...]


class Pushed(NamedTuple):
    """What comes out of a push.

    Args:
        value: the function's value [*s].
        slopes: its K directional derivatives [K, *s].
        aux: what the function returned beside its value.
        trace: what happened on the way (fallbacks, exits, densifications).
        reached: the names of the parameters on which the value depends.
    """

    value: Tensor
    slopes: Tensor
    aux: Any
    trace: Trace
    reached: frozenset[str]


def push_forward(
    fn: Callable[..., Any],
    primals: Primals,
    tangents: Mapping[str, Kind | Tensor] | tuple[Kind | Tensor, ...],
    *,
    strict: bool = False,
    locate: Callable[[], str] = lambda: "",
) -> Pushed:
    r"""Pushes K stacked tangents forward through a function: its value and K slopes in one pass, with no tape.

    .. math:: (f(x),\; J_f(x)\, v_1, \dots, J_f(x)\, v_K)

    Args:
        fn: called as ``fn(primals)`` for a mapping, ``fn(*primals)`` for a tuple; returns a tensor or (tensor, aux).
        primals: floating point tensors of shape [*s_i], by name or by position.
        tangents: for each primal K tangents, as a tensor [K, *s_i] or a `Kind`; a name left out does not move.
        strict: raise where an operation has no rule or a tangent is left behind.
        locate: gives the path of the running module, for messages.

    Raises:
        InputError: shapes, names or counts that do not fit.
        UnsupportedError: an operation without a forward derivative.
        LostTangentError: a primal whose tangents only left by `.detach()`, `.data`, numpy or a value read out.
        StrictError: under `strict`.
    """
    named = isinstance(primals, Mapping)
    items: dict[str, Tensor] = dict(primals.items() if isinstance(primals, Mapping) else numbered(primals))
    moving = dict(tangents.items() if isinstance(tangents, Mapping) else numbered(tangents))
    kinds = {name: as_kind(name, items.get(name), v) for name, v in moving.items()}
    trace = Trace(count(kinds), tuple(kinds), strict, locate)
    duals = dict(items)
    for i, (name, kind) in enumerate(kinds.items()):
        x = items[name].detach()
        trace.parameters[x.untyped_storage()._cdata] = name
        if isinstance(kind, Coordinate) and len(kind.shape) > 1:
            kind = outer(kind)
        if not isinstance(kind, Zero):  # which moves nothing, and would only be pushed about
            duals[name] = Dual(x, kind.data if isinstance(kind, Dense) else kind, 1 << i, trace)
    with torch.enable_grad(), Pushing(trace), follow_custom_functions(), slow_paths():
        try:
            out = fn(duals) if named else fn(*duals.values())
        except RuntimeError as error:
            if (sentence := explained(error, trace)) is not None:
                raise sentence from error
            raise
    value, aux = out if isinstance(out, tuple) else (out, None)
    return settle(value, aux, trace)


def outer(kind: Coordinate) -> RankOne:
    """Coordinates as outer products of unit vectors, for which the rules know short ways."""
    rest = kind.shape[1:]
    a, b = kind.value.new_zeros(kind.num_tangents, kind.shape[0]), kind.value.new_zeros(kind.num_tangents, rest.numel())
    a.scatter_(1, kind.index[:, None] // rest.numel(), kind.value[:, None])
    b.scatter_(1, kind.index[:, None] % rest.numel(), 1)
    return RankOne(a, b.view(-1, *rest))


def explained(error: RuntimeError, trace: Trace) -> ForwardGradError | None:
    """A sentence in place of an error in which PyTorch speaks of its own inside; None for any other."""
    if isinstance(error, ForwardGradError):
        return None
    if trace.refused is not None and "TorchScript" in str(error):
        return trace.refused
    if "Creating a Parameter from an instance of type Dual" in str(error):
        return UnsupportedError(
            needs="an nn.Parameter needs a tensor that no parameter moves",
            found="nn.Parameter(x) of a pushed-forward x",
            cure="use x itself, or fg.stop_gradient(x) if it is meant as a constant",
            path=trace.exits[-1].path if trace.exits else "",
        )
    return None


def settle(value: Any, aux: Any, trace: Trace) -> Pushed:
    """Takes value and slopes apart, and refuses a result that some tangent should have reached and did not."""
    if not isinstance(value, Tensor):
        raise InputError(
            "a push needs a tensor for its value", type(value).__name__, "return a tensor or (tensor, aux)"
        )
    if type(value) is not Dual:
        shadow = trace.shadows.get(value.untyped_storage()._cdata)
        value = Pushing(trace).shadowed(value) if shadow else value
    if type(value) is Dual and value.diary is not trace:
        refuse_mixture(trace)
    reach = value.reach if type(value) is Dual else 0
    lost = [e for e in trace.exits if e.reach & ~reach]
    if lost:
        names = trace.named(lost[0].reach & ~reach)
        raise LostTangentError(
            needs=f"a push needs the tangent of `{names[0]}` to reach the loss"
            + f" (and of {len(names) - 1} more)" * (len(names) > 1),
            found=f"it left behind by `{lost[0].operation}`",
            cure="compute with tensors all the way; if it is meant, use fg.stop_gradient there or freeze the parameter",
            path=lost[0].path,
        )
    primal = value.primal if type(value) is Dual else value
    slopes = value.dense() if type(value) is Dual else zeros_for(value, trace.num_tangents)
    aux = tree_map_only(Dual, lambda x: x.primal, aux)
    return Pushed(primal, slopes, aux, trace, frozenset(trace.named(reach)))


def numbered(given: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """Positions as names."""
    return [(str(i), x) for i, x in enumerate(given)]


def as_kind(name: str, x: Tensor | None, v: Kind | Tensor) -> Kind:
    """Checks one primal and its tangents, and puts a plain tensor into its kind."""
    if x is None:
        raise InputError("a tangent needs its primal", f"no primal named `{name}`", "give tangents only to primals")
    if not x.dtype.is_floating_point:
        raise InputError(
            "a push needs real floating point primals",
            str(x.dtype),
            "freeze it or cast it to a floating dtype",
            path=name,
        )
    if isinstance(v, Tensor):
        if v.ndim != x.ndim + 1:
            raise InputError(
                f"tangents need the shape [K, {', '.join(map(str, x.shape))}]",
                str(list(v.shape)),
                "stack K tangents",
                path=name,
            )
        v = Dense(v)
    if tuple(v.shape) != tuple(x.shape) or v.device != x.device:
        raise InputError(
            f"tangents need the primal's shape {tuple(x.shape)} and device {x.device}",
            f"{tuple(v.shape)} on {v.device}",
            "draw them from the same parameters",
            path=name,
        )
    return v if v.dtype == x.dtype else v.to(dtype=x.dtype)


def count(kinds: Mapping[str, Kind]) -> int:
    """K, the same for every primal."""
    counts = {kind.num_tangents for kind in kinds.values()}
    if len(counts) != 1 or 0 in counts:
        raise InputError(
            "a push needs the same K >= 1 for every primal",
            f"K in {sorted(counts)}",
            "stack as many for each",
        )
    return counts.pop()


def stop_gradient(x: Tensor) -> Tensor:
    """x as a constant: reverse mode's ``detach``, said on purpose, so that no tangent counts as lost."""
    mode = _get_current_function_mode()
    if not isinstance(mode, Pushing):
        return x.primal if type(x) is Dual else x.detach()
    with torch._C.DisableTorchFunction():  # or memory that a Dual was written into would count as an exit
        y = x.primal if type(x) is Dual else x.detach()
        return y.clone() if y.untyped_storage()._cdata in mode.trace.shadows else y
