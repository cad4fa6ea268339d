"""Philox4x32-10, a counter-based generator, in integer operations: the same words on every device.

Many blocks are mixed at once, word by word. The words stand in tensors, or, where there are so few blocks that PyTorch
would take longer to be called than to compute, side by side in Python's own integers: 64 bits for each, so that no
product runs over into its neighbour. The rounds are the same lines for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Words = TypeVar("Words", int, Tensor)

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF
_LANE_BYTES = 8


def philox(counter: Tensor, keys: Tensor | Sequence[int]) -> Tensor:
    """Four random 32-bit words for every counter: ten rounds of a keyed bijection.

    (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)), and (k0, k1) += (W0,
    W1).

    Args:
        counter: [4, N] int64, each entry in [0, 2^32).
        keys: [20] int64 or 20 integers, the numbers of `round_keys`.

    Returns:
        [4, N] int64, each entry in [0, 2^32).

    References:
        Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3. SC11.
    """
    numbers: Sequence[Any] = keys.unbind() if isinstance(keys, Tensor) else keys
    return torch.stack(_mixed(counter.unbind(), zip(numbers[::2], numbers[1::2], strict=True), _WORD))


def philox_packed(counter: Sequence[int], keys: Sequence[int], blocks: int) -> tuple[int, ...]:
    """`philox` of few counters, in Python's integers.

    Args:
        counter: four integers, the words of all counters side by side: of counter i from bit 64 i on.
        keys: 20 integers, the numbers of `round_keys`.
        blocks: N, how many counters.

    Returns:
        Four integers with the random words, laid out in the same way.
    """
    ones = repeated(1, blocks)
    spread = [key * ones for key in keys]
    return _mixed(counter, zip(spread[::2], spread[1::2], strict=True), _WORD * ones)


def repeated(word: int, blocks: int) -> int:
    """A word beside itself, once for each block: see `philox_packed`."""
    return int.from_bytes(word.to_bytes(_LANE_BYTES, "little") * blocks, "little")


def _mixed(counter: Sequence[Words], keys: Iterable[tuple[Any, Any]], low: Any) -> tuple[Words, ...]:
    """The rounds.

    Args:
        counter: four words of every block, which are not written to.
        keys: what each round mixes in.
        low: the mask of a word's 32 bits.
    """
    c0, c1, c2, c3 = counter
    M0, M1 = _MULTIPLIERS
    for k0, k1 in keys:
        # Of tensors the top bit may overflow into int64's sign: only bits are read, so no harm.
        p0, p1 = c0 * M0, c2 * M1
        c0, c2 = p1 >> 32, p0 >> 32
        c0 &= low
        c0 ^= c1
        c0 ^= k0
        c2 &= low
        c2 ^= c3
        c2 ^= k1
        p0 &= low
        p1 &= low
        c1, c3 = p1, p0
    return c0, c1, c2, c3


def round_keys(key: int) -> list[int]:
    """What the two halves of a block are mixed with in each round, round by round: 20 numbers of 32 bits.

    Args:
        key: 64 bits.
    """
    halves = (key & _WORD, key >> 32 & _WORD)
    return [half + i * step & _WORD for i in range(_ROUNDS) for half, step in zip(halves, _KEY_STEPS, strict=True)]
