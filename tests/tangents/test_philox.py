"""Philox against the vectors published with it, and against a plain reading of the paper."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forwardgrad.tangents.philox import philox, philox_packed, round_keys

# The lines `philox4x32 10` of tests/kat_vectors in Random123: counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def numbers(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def plain(counter: list[int], key: tuple[int, int]) -> list[int]:
    """The paper's loop over Python integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & 0xFFFFFFFF, p0 >> 32 ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected) -> None:
    low, high = numbers(key)
    got = philox(torch.tensor(numbers(counter)).view(4, 1), torch.tensor(round_keys(high << 32 | low)))
    assert got.flatten().tolist() == numbers(expected)
    assert plain(numbers(counter), (low, high)) == numbers(expected)


WORD = st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=5), st.integers(0, 2**64 - 1))
def test_many_counters_at_once(counters, key) -> None:
    got = philox(torch.tensor(counters).T, torch.tensor(round_keys(key))).T.tolist()
    assert got == [plain(list(counter), (key & 0xFFFFFFFF, key >> 32)) for counter in counters]


@given(st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=5), st.integers(0, 2**64 - 1))
def test_words_side_by_side_in_one_integer(counters, key) -> None:
    columns = [sum(word << 64 * i for i, word in enumerate(column)) for column in zip(*counters, strict=True)]
    packed = philox_packed(columns, round_keys(key), len(counters))
    got = [[column >> 64 * i & 2**64 - 1 for column in packed] for i in range(len(counters))]
    assert got == [plain(list(counter), (key & 0xFFFFFFFF, key >> 32)) for counter in counters]


def test_the_counters_are_not_written() -> None:
    counter = torch.arange(8).view(4, 2)
    philox(counter, torch.tensor(round_keys(1)))
    assert counter.flatten().tolist() == list(range(8))
