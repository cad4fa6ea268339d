"""Work counted in floating-point operations, the same on every machine.

    cost in forward passes = flops(method) / flops(one forward pass of the same loss)

PyTorch's own formulas (`torch.utils.flop_counter`) cover matrix products, convolutions and attention on GPUs.
The CPU's fused attention, products with a vector (a rank-one tangent makes them) and fused recurrent layers
are added here. Elementwise work is counted apart: it decides only where there is no matrix product at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from forwardgrad.forward_ad.peak import leaves, unwraps_first

aten = torch.ops.aten


class Flops(NamedTuple):
    """What a piece of code computed.

    Args:
        products: multiplications and additions in matrix products, convolutions, attention, recurrent layers.
        elements: entries written by every other operation that computes something (views do not).
    """

    products: int
    elements: int

    def over(self, other: Flops) -> float:
        """The ratio to another count: of products where `other` has any, else of elements, else NaN."""
        if other.products:
            return self.products / other.products
        return self.elements / other.elements if other.elements else float("nan")


def _mv(matrix: Tensor, vector: Tensor, **_: Any) -> int:
    return 2 * matrix.numel()


def _addmv(start: Tensor, matrix: Tensor, vector: Tensor, **_: Any) -> int:
    return 2 * matrix.numel()


def _dot(a: Tensor, b: Tensor, **_: Any) -> int:
    return 2 * a.numel()


def _addr(start: Tensor, a: Tensor, b: Tensor, **_: Any) -> int:
    return 2 * a.numel() * b.numel()


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    # Scores and their product with the values; grouped heads read the same keys, once per query head.
    scores = query.shape[:-1].numel() * key.shape[-2]
    return 2 * scores * (query.shape[-1] + value.shape[-1])


def _attention_backward(upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    # The scores are computed again; then the gradients of values, weights, queries and keys.
    scores = query.shape[:-1].numel() * key.shape[-2]
    return 2 * scores * (3 * query.shape[-1] + 2 * value.shape[-1])


def _recurrent(x: Tensor, into: Tensor, hidden: Tensor, *_: Any, **__: Any) -> int:
    return 2 * x.shape[:-1].numel() * (into.numel() + hidden.numel())


def _recurrent_backward(x: Tensor, into: Tensor, hidden: Tensor, *_: Any, **__: Any) -> int:
    return 2 * _recurrent(x, into, hidden)


def _recurrent_cudnn(x: Tensor, weights: Sequence[Tensor], *_: Any, **__: Any) -> int:
    return 2 * x.shape[:-1].numel() * sum(w.numel() for w in weights if w.dim() == 2)


# Written against tensors; PyTorch's own formulas stand in `flop_registry` and come first.
_FORMULAS: Mapping[Any, Callable[..., int]] = {
    aten.mv: _mv,
    aten.addmv: _addmv,
    aten.addmv_: _addmv,
    aten.dot: _dot,
    aten.vdot: _dot,
    aten.addr: _addr,
    aten.addr_: _addr,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.mkldnn_rnn_layer: _recurrent,
    aten.mkldnn_rnn_layer_backward: _recurrent_backward,
    aten._cudnn_rnn: _recurrent_cudnn,
}
# In-place products have the arguments of the others.
_IN_PLACE = {aten.addmm_: aten.addmm, aten.baddbmm_: aten.baddbmm}


class CountFlops(TorchDispatchMode):
    """Counts the floating-point operations of a block, backward pass and recomputation included."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0
        self.elements = 0

    @property
    def flops(self) -> Flops:
        """What was counted so far."""
        return Flops(self.products, self.elements)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs `func` and adds what it computed."""
        if unwraps_first(types):
            return NotImplemented
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        packet = _IN_PLACE.get(packet, packet)
        theirs, ours = flop_registry.get(packet), _FORMULAS.get(packet)
        if theirs is None and ours is None and isinstance(func, torch._ops.OpOverload):
            with self:  # in inference mode composite operations arrive whole
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if theirs is not None:
            self.products += int(theirs(*args, **kwargs, out_val=out))
        elif ours is not None:
            self.products += ours(*args, **kwargs)
        elif not getattr(func, "is_view", False):
            self.elements += sum(tensor.numel() for tensor in leaves(out))
        return out


@contextmanager
def _layers_unfused() -> Iterator[None]:
    """The encoder layer's fused inference path would hide its matrix products."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def count_flops(work: Callable[[], Any]) -> Flops:
    """The floating-point operations of `work()`.

    Args:
        work: called once; what it returns is dropped.
    """
    counter = CountFlops()
    with _layers_unfused(), counter:
        work()
    return counter.flops
