"""Philox4x32-10, a counter-based generator, in integer tensor operations: the same words on every device."""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF


def philox(counter: Tensor, keys: Tensor) -> Tensor:
    """Four random 32-bit words for every counter: ten rounds of a keyed bijection.

    (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)), and (k0, k1) += (W0,
    W1).

    Args:
        counter: [4, N] int64, each entry in [0, 2^32).
        keys: [20] int64, the numbers of `round_keys`.

    Returns:
        [4, N] int64, each entry in [0, 2^32).

    References:
        Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3. SC11.
    """
    multipliers = torch.tensor(_MULTIPLIERS, device=counter.device).view(2, 1)
    even, odd = counter[0::2], counter[1::2]
    for round_key in keys.view(_ROUNDS, 2, 1).unbind():
        # Swapped to (M1 c2, M0 c0). The top bit may overflow into int64's sign: only bits are read, so no
        # harm.
        product = (even * multipliers).flip(0)
        even = (product >> 32).bitwise_and_(_WORD).bitwise_xor_(odd).bitwise_xor_(round_key)
        odd = product.bitwise_and_(_WORD)
    return torch.stack((even, odd), dim=1).flatten(0, 1)


def round_keys(key: int) -> list[int]:
    """What the two halves of a block are mixed with in each round, round by round: 20 numbers of 32 bits.

    Args:
        key: 64 bits.
    """
    halves = (key & _WORD, key >> 32 & _WORD)
    return [half + i * step & _WORD for i in range(_ROUNDS) for half, step in zip(halves, _KEY_STEPS, strict=True)]
