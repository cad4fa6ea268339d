"""What is not differentiated: metadata, comparisons, and the exits where a tangent is left behind.

An exit gives the primal, as reverse mode would, and is written down: a push that ends with a parameter whose tangent
only ever left through exits is an error that names them (see `forwardgrad.forward_ad.push`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from forwardgrad.errors import StrictError, UnsupportedError
from forwardgrad.forward_ad.dual import Dual, Exit, primal, provenance
from forwardgrad.forward_ad.registry import ANSWERS
from forwardgrad.forward_ad.rules.inplace import guard_parameter

_PROPERTIES = (
    "shape dtype device ndim layout is_cuda is_cpu is_mps is_xpu is_sparse is_sparse_csr is_quantized is_meta "
    "is_mkldnn is_nested itemsize nbytes names is_leaf requires_grad grad_fn output_nr retains_grad"
).split()
_METADATA = (
    "size dim ndimension numel nelement element_size stride storage_offset is_contiguous get_device "
    "is_floating_point is_complex is_signed is_same_size __len__ __hash__ is_inference is_shared is_pinned "
    "dim_order"
).split()
_COMPARISONS = (
    "eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ isnan isinf isfinite isclose allclose equal argmax "
    "argmin argsort sign floor ceil round trunc logical_not logical_and logical_or logical_xor any all nonzero "
    "count_nonzero signbit bincount histc searchsorted bucketize floor_divide __floordiv__ heaviside is_nonzero "
    "new_empty new_zeros new_ones new_full new_tensor int long bool short char byte unique unique_consecutive "
    "__and__ __or__ multinomial"
).split()
_FRESH = "zeros_like ones_like empty_like full_like rand_like randn_like randint_like bernoulli".split()
_EXITS = (
    "detach numpy item tolist __float__ __int__ __bool__ __index__ __complex__ __array__ __contains__ __dlpack__ "
    "data_ptr untyped_storage storage"
).split()

_FORWARD_ONLY = "a push runs forward only, with no tape"


def on_primal(func: Callable) -> Callable[..., Any]:
    """Answers from the primal; nothing is lost, since the answer does not depend on it smoothly."""

    def answered(*args: Any, **kwargs: Any) -> Any:
        return func(*[primal(a) for a in args], **{name: primal(a) for name, a in kwargs.items()})

    return answered


def exit_by(name: str, func: Callable) -> Callable[..., Any]:
    """Gives the primal's answer and writes the exit down; an error in a strict push."""

    def left(x: Any, *args: Any, **kwargs: Any) -> Any:
        if type(x) is not Dual:
            return func(x, *(primal(a) for a in args), **kwargs)
        trace = x.diary
        if trace.strict:
            raise StrictError(
                needs="strict=True needs every tangent to stay with its tensor",
                found=f"`{name}`, which leaves it behind",
                cure="compute with tensors, freeze the part that must not move, or drop strict",
                path=trace.locate(),
            )
        trace.exits.append(Exit(name, trace.locate(), x.reach))
        y = func(x.primal, *(primal(a) for a in args), **kwargs)
        return apart(x, y, name) if isinstance(y, Tensor) else y

    return left


def apart(x: Dual, y: Tensor, name: str) -> Tensor:
    """y, left behind by x, in memory of its own where a shadow would give it the tangent again.

    Raises:
        UnsupportedError: `.data` of such memory, which is asked for in order to write there.
    """
    if y.untyped_storage()._cdata not in x.diary.shadows:
        return y
    if name == ".data":
        raise UnsupportedError(
            needs="`.data` needs a tensor that no pushed-forward one was written into",
            found="one written into",
            cure="use .detach() to read it, or write to the tensor itself",
            path=x.diary.locate(),
        )
    return y.clone()


def refuse(name: str, why: str, cure: str) -> Callable[..., Any]:
    """A rule that says why the function cannot be had."""

    def refused(*args: Any, **kwargs: Any) -> Any:
        trace = provenance(args, kwargs)[1]
        raise UnsupportedError(why, f"`{name}`", cure, path=trace.locate())

    return refused


def require_grad(x: Dual, requires_grad: bool = True) -> Dual:
    """In reverse mode x, which depends on parameters, requires gradients already: asking for them does nothing.

    Gradient checkpointing asks, of what comes out of an embedding.

    Raises:
        UnsupportedError: they are not wanted, which reverse mode refuses as well.
    """
    if requires_grad:
        return x
    return refuse("requires_grad_(False)", _FORWARD_ONLY, "use fg.stop_gradient(x)")(x)


def set_data(x: Any, value: Any) -> None:
    """``x.data = value``: the value changes and the tangent stays, as the gradient would; never of a parameter.

    Raises:
        ParameterChangedError: x is a parameter.
    """
    if type(x) is Dual:
        guard_parameter(x.diary, x.primal, "data = ")
    primal(x).data = primal(value)


def _register() -> None:
    for name in _PROPERTIES:
        if hasattr(Tensor, name):
            getter = getattr(Tensor, name).__get__
            ANSWERS[getter] = on_primal(getter)
    for names, spaces in (
        (_METADATA, (Tensor, torch)),
        (_COMPARISONS, (Tensor, torch)),
        (_FRESH, (torch, Tensor)),
    ):
        for name in names:
            for space in spaces:
                func = getattr(space, name, None)
                if callable(func):
                    ANSWERS[func] = on_primal(func)
    for name in _EXITS:
        func = getattr(Tensor, name, None)
        if func is not None:
            ANSWERS[func] = exit_by(f".{name.strip('_')}()", func)
    ANSWERS[torch.detach] = exit_by(".detach()", torch.detach)
    ANSWERS[Tensor.data.__get__] = exit_by(".data", Tensor.data.__get__)
    slot: Any = torch._C.TensorBase.grad
    ANSWERS[slot.__get__] = lambda x: None
    ANSWERS[Tensor.__repr__] = on_primal(Tensor.__repr__)  # debuggers call it
    ANSWERS[Tensor.__format__] = exit_by("an f-string", Tensor.__format__)
    ANSWERS[Tensor.data.__set__] = set_data
    ANSWERS[Tensor.requires_grad_] = require_grad
    remove = "remove it, or ask for `x.requires_grad` first"
    for name in ("register_hook", "retain_grad", "register_post_accumulate_grad_hook"):
        ANSWERS[getattr(Tensor, name)] = refuse(name, _FORWARD_ONLY, remove)
    ANSWERS[Tensor.requires_grad.__set__] = refuse("requires_grad =", _FORWARD_ONLY, remove)
    ANSWERS[slot.__set__] = refuse("grad =", _FORWARD_ONLY, remove)
    ANSWERS[Tensor.backward] = refuse("backward", _FORWARD_ONLY, "leave the gradient to the method")
    ANSWERS[torch.autograd.grad] = refuse(
        "torch.autograd.grad",
        _FORWARD_ONLY,
        "use create_graph-free code, or torch.func.jvp of the inner gradient",
    )


_register()
