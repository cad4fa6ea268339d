"""Signs: which bit they come from, and that they are +-1."""

from __future__ import annotations

import torch

from forwardgrad.tangents import Dense, Key, Rademacher
from forwardgrad.tangents.stream import words


def test_a_sign_is_minus_one_where_its_bit_is_set() -> None:
    drawn = Rademacher()({"w": torch.zeros(5, 15)}, 2, Key(7, 3))["w"]
    bits = words((("w", 3),), 2, Key(7, 3), torch.device("cpu")).view(2, -1)
    for k in range(2):
        for position, sign in enumerate(drawn.data[k].flatten().tolist()):
            word, bit = divmod(position, 32)
            assert sign == 1 - 2 * (int(bits[k, word]) >> bit & 1)


def test_the_signs_of_a_key_are_these_for_ever() -> None:
    drawn = Rademacher()({"weight": torch.zeros(2, 8)}, 2, Key(1, 0))["weight"]
    text = ["".join("+-"[int(sign < 0)] for sign in row) for row in drawn.data.flatten(1).tolist()]
    assert text == GOLDEN


def test_entries_are_signs_and_every_vector_is_as_long_as_n_says() -> None:
    drawn = Rademacher()({"w": torch.zeros(3, 7), "b": torch.zeros(())}, 5, Key(0))
    assert all(isinstance(kind, Dense) and (kind.data.abs() == 1).all() for kind in drawn.values())
    assert drawn.gram().diagonal().tolist() == [22.0] * 5


def test_the_second_moment() -> None:
    assert Rademacher().second_moment(101, 4) == 26.0


GOLDEN = ["--+-+-++--+-+++-", "-+++-----+-++---"]
