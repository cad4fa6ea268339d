"""Random words addressed by (seed, step, parameter name, tangent, position), drawn all at once.

The 128-bit counter of a block of four words, from its first 32-bit word to its last:

    word 0   block within the tangent of this parameter
    word 1   tangent (20 bits), then 12 bits of the hash of the parameter's name
    word 2   32 bits of that hash
    word 3   step, modulo 2^32

and the 64-bit key is the seed. So within one seed no two addresses meet in 2^32 steps (after which the key
moves on), unless two names share 44 bits of hash, which is refused. Adding a parameter or a tangent changes
no other.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.tangents.key import Key
from forwardgrad.tangents.philox import philox, philox_packed, repeated, round_keys

_WORD = 0xFFFFFFFF
_TANGENT_BITS = 20
_HASH_BITS = 44
_KEY_STEP = 0x9E3779B97F4A7C15
_BLOCK_WORDS = 4
# Blocks per evaluation: as many as fit a core's cache.
_SLICE = 2**14
# Up to as many blocks Python's own integers are faster than tensors.
_PACKED_BLOCKS = 512
# Larger address tables are computed anew at each draw rather than remembered.
_REMEMBERED_BLOCKS = 2**16


def words(counts: tuple[tuple[str, int], ...], num_tangents: int, key: Key, device: torch.device) -> Tensor:
    """Random words for every tangent of every parameter, parameter by parameter, tangent by tangent.

    Args:
        counts: (parameter name, words per tangent), each rounded up to a multiple of four.
        num_tangents: K, at most 2^20.
        key: which draw.
        device: where.

    Returns:
        [N] int64 in [0, 2^32), where N is K times the sum of the rounded counts, [K, rounded count] for each
        parameter in turn.

    Raises:
        InputError: too many tangents, or two names with the same hash.
    """
    if num_tangents > 2**_TANGENT_BITS:
        raise InputError(
            needs=f"a draw needs at most {2**_TANGENT_BITS} tangents",
            found=f"num_tangents={num_tangents}",
            cure="draw them in several steps of the key",
        )
    blocks = sum(-(-count // _BLOCK_WORDS) for _, count in counts) * num_tangents
    if blocks <= _PACKED_BLOCKS and not isinstance(key, Placed):
        return _few_words(counts, num_tangents, key).to(device)
    table = _addresses if blocks <= _REMEMBERED_BLOCKS else _addresses.__wrapped__
    counter = table(counts, num_tangents, device).clone()
    step, keys = (key.place[0], key.place[1:]) if isinstance(key, Placed) else place_of(key)
    counter[3] = step
    if counter.shape[1] <= _SLICE:
        return philox(counter, keys).T.reshape(-1)
    return torch.cat([philox(part, keys).T.reshape(-1) for part in counter.split(_SLICE, dim=1)])


def _few_words(counts: tuple[tuple[str, int], ...], num_tangents: int, key: Key) -> Tensor:
    """`words` of a small draw, on the CPU."""
    blocks, counter = _packed_addresses(counts, num_tangents)
    step, keys = place_of(key)
    drawn = philox_packed((*counter, repeated(step, blocks)), keys, blocks)
    rows = np.frombuffer(b"".join([row.to_bytes(blocks * 8, "little") for row in drawn]), "<i8").reshape(4, blocks)
    return torch.from_numpy(rows.T.astype(np.int64, order="C").reshape(-1))


@lru_cache(maxsize=16)
def _packed_addresses(counts: tuple[tuple[str, int], ...], num_tangents: int) -> tuple[int, tuple[int, ...]]:
    """How many blocks there are, and the first three words of `_addresses` as `philox_packed` reads them."""
    rows = _addresses.__wrapped__(counts, num_tangents, torch.device("cpu"))[:3].tolist()
    packed = (sum(word << 64 * i for i, word in enumerate(row)) for row in rows)
    return len(rows[0]), tuple(packed)


def place_of(key: Key) -> tuple[int, list[int]]:
    """Where the draw of a key begins, as the generator reads it.

    Args:
        key: the key.

    Returns:
        The counter's last word, and what the rounds of the generator mix in.
    """
    return key.step & _WORD, round_keys(key.seed + (key.step >> 32) * _KEY_STEP & 2**64 - 1)


class Placed(Key):
    """A key whose place is a tensor: a draw that is traced reads it, and its graph serves every key."""

    place: Tensor

    @classmethod
    def at(cls, place: Tensor) -> Placed:
        """The key of a place; its own two numbers say nothing.

        Args:
            place: [21] int64, the numbers of `place_of` in a row.
        """
        key = cls(0, 0)
        key.place = place
        return key


def rounded(count: int) -> int:
    """Words that a parameter with `count` words per tangent owns per tangent: whole blocks."""
    return -(-count // _BLOCK_WORDS) * _BLOCK_WORDS


@lru_cache(maxsize=16)
def _addresses(counts: tuple[tuple[str, int], ...], num_tangents: int, device: torch.device) -> Tensor:
    """The counters of `words` with step 0, [4, N / 4] int64; a pure function, and nobody writes to it."""
    hashes = name_hashes(tuple(name for name, _ in counts))
    parts = []
    for name_hash, (_, count) in zip(hashes, counts, strict=True):
        blocks = -(-count // _BLOCK_WORDS)
        part = torch.zeros(4, num_tangents, blocks, dtype=torch.int64)
        part[0] = torch.arange(blocks)
        part[1] = torch.arange(num_tangents).unsqueeze(1) | name_hash >> 32 << _TANGENT_BITS
        part[2] = name_hash & _WORD
        parts.append(part.flatten(1))
    return torch.cat(parts, dim=1).to(device)


@lru_cache(maxsize=64)
def name_hashes(names: tuple[str, ...]) -> tuple[int, ...]:
    """A stable 44-bit hash of every name: BLAKE2b, not Python's `hash`, which differs from process to
    process.

    Args:
        names: the parameters' names.

    Raises:
        InputError: two of the names share a hash, so that their tangents would be equal.
    """
    owners: dict[int, str] = {}
    for name in names:
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        other = owners.setdefault(int.from_bytes(digest, "little") & 2**_HASH_BITS - 1, name)
        if other != name:
            raise InputError(
                needs="a draw needs parameter names with different hashes",
                found=f"the same hash for {name!r} and {other!r}",
                cure="rename one of them",
                path=name,
            )
    return tuple(owners)
