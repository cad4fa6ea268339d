"""How many bytes a block of code keeps alive at once, counted storage by storage.

The figure is exact and the same on every machine, which a process-level one (resident pages, caching
allocators) is not. What it cannot see is scratch memory inside a kernel; `measure` therefore reports a
process-level figure beside it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

# `torch.tensor(...)` makes its storage before any dispatch and hands it to one of these as an *argument*.
_BIRTHS = frozenset({torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default})


def unwraps_first(types: Sequence[type]) -> bool:
    """Whether a subclass with a dispatch of its own is among an operation's arguments.

    A mode then answers NotImplemented: the subclass unwraps, and its inner operations come back to the mode.
    (autograd's own `detach` names plain tensors among the types.)
    """
    return any(kind not in (Tensor, torch.nn.Parameter) for kind in types)


def leaves(value: Any) -> Iterator[Tensor]:
    """The tensors in the nested lists, tuples and mappings an operation takes and returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from leaves(item)


def storages(tensor: Tensor) -> Iterator[UntypedStorage]:
    """The storages behind a tensor: one as a rule, several for sparse layouts, none where there is no memory.

    Tensors on the meta device, zero tangents without memory (`_efficientzerotensor`) and opaque layouts have
    none. A wrapper has none of its own either: what it wraps was made by operations that are seen themselves.

    Args:
        tensor: any tensor.
    """
    if tensor.is_meta or tensor._is_zerotensor() or is_traceable_wrapper_subclass(tensor):
        return
    if tensor.layout is torch.strided:
        yield tensor.untyped_storage()
    elif tensor.layout is torch.sparse_coo:
        yield tensor._indices().untyped_storage()
        yield tensor._values().untyped_storage()
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        for part in (tensor.crow_indices(), tensor.col_indices(), tensor.values()):
            yield part.untyped_storage()
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        for part in (tensor.ccol_indices(), tensor.row_indices(), tensor.values()):
            yield part.untyped_storage()


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of the storages born inside the block, while they live.

    A storage is born when an operation returns one that it was not given and that was not counted before. It
    counts until it is freed, whoever holds it (Python, the tape, a kernel's cache). Views and in-place
    operations add nothing, and storages that were there before the block (weights, batch) count zero. The
    mode sits below autograd, functional transforms and `__torch_function__` subclasses, and follows a
    backward pass and a recomputation. What other threads allocate meanwhile is not counted.

    Entering starts again from zero. After the block, `current` is what it left behind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self.peak = 0
        # Address of a living storage -> (its bytes, a weak reference whose callback takes them off again).
        self._alive: dict[int, tuple[int, weakref.ref[UntypedStorage]]] = {}

    def __enter__(self) -> PeakBytes:
        self.current = self.peak = 0
        self._alive.clear()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._alive.clear()  # drops the weak references, hence the callbacks: `current` stays as it is

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs `func` and counts the storages that its outputs brought into the world."""
        if unwraps_first(types):
            return NotImplemented
        kwargs = kwargs or {}
        given = () if func in _BIRTHS else leaves((args, kwargs))
        # The addresses are compared only while the arguments still hold these storages.
        known = {storage._cdata for tensor in given for storage in storages(tensor)}
        out = func(*args, **kwargs)
        for tensor in leaves(out):
            for storage in storages(tensor):
                if storage._cdata in self._alive or storage._cdata not in known:
                    self._count(storage)
        return out

    def _count(self, storage: UntypedStorage) -> None:
        """Counts a newborn storage, or corrects the bytes of one that was resized."""
        address = storage._cdata
        nbytes = storage.nbytes()
        before, reference = self._alive.get(address, (0, None))
        if reference is None:
            reference = weakref.ref(storage, self._farewell(address))
        self._alive[address] = (nbytes, reference)
        self.current += nbytes - before
        self.peak = max(self.peak, self.current)

    def _farewell(self, address: int) -> Callable[[Any], None]:
        """The callback that takes a dead storage's bytes off; it must not keep the mode alive."""
        mode = weakref.ref(self)

        def forget(reference: Any) -> None:
            counter = mode()
            if counter is None:
                return
            nbytes, current = counter._alive.get(address, (0, None))
            if current is reference:
                del counter._alive[address]
                counter.current -= nbytes

        return forget
