"""Words have addresses: the same one gives the same word, and no two meet."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from forwardgrad.errors import InputError
from forwardgrad.tangents.key import Key
from forwardgrad.tangents.philox import philox, round_keys
from forwardgrad.tangents.stream import Placed, _addresses, name_hashes, place_of, rounded, words

CPU = torch.device("cpu")
KEY = Key(5, 7)


def draw(counts, num_tangents=3, key=KEY) -> dict[str, torch.Tensor]:
    flat = words(tuple(counts.items()), num_tangents, key, CPU)
    parts = flat.split([num_tangents * rounded(count) for count in counts.values()])
    return {name: part.view(num_tangents, -1) for name, part in zip(counts, parts, strict=True)}


def test_a_word_is_where_the_layout_says() -> None:
    (name_hash,) = name_hashes(("encoder.weight",))
    key = Key(2**63 + 11, 2**32 - 1)
    got = draw({"bias": 3, "encoder.weight": 17}, key=key)["encoder.weight"]
    for tangent, block in ((0, 0), (2, 4), (1, 3)):
        counter = [block, tangent | name_hash >> 32 << 20, name_hash & 2**32 - 1, 2**32 - 1]
        expected = philox(torch.tensor(counter).view(4, 1), torch.tensor(round_keys(key.seed))).flatten()
        assert torch.equal(got[tangent, 4 * block : 4 * block + 4], expected)


@pytest.mark.parametrize("count", [1, 300, 2000])  # blocks in Python's integers, and too many for them
def test_words_do_not_depend_on_what_computes_them(count) -> None:
    step, keys = place_of(KEY)
    by_tensors = draw({"a": count, "b": 5}, key=Placed.at(torch.tensor([step, *keys])))
    drawn = draw({"a": count, "b": 5})
    assert all(torch.equal(drawn[name], by_tensors[name]) for name in drawn)


def test_other_parameters_and_more_tangents_change_nothing() -> None:
    alone = draw({"w": 9}, num_tangents=2)["w"]
    among = draw({"a": 100, "w": 9, "z": 1}, num_tangents=5)["w"]
    longer = draw({"w": 40}, num_tangents=2)["w"]
    assert torch.equal(among[:2], alone) and torch.equal(longer[:, :9], alone[:, :9])


def test_names_tangents_steps_and_seeds_all_matter() -> None:
    base = draw({"w": 8}, 2)["w"]
    others = [
        draw({"v": 8}, 2)["v"],
        base.flip(0),
        draw({"w": 8}, 2, Key(5, 8))["w"],
        draw({"w": 8}, 2, Key(6, 7))["w"],
        draw({"w": 8}, 2, Key(5, 7 + 2**32))["w"],
        draw({"w": 8}, 2, Key(5 + 2**32, 7))["w"],
        draw({"w": 8}, 2, Key(-5, 7))["w"],
    ]
    assert not any((base == other).any() for other in others)


def test_no_two_counters_of_a_draw_are_equal() -> None:
    counters = _addresses((("a", 9), ("b", 30), ("c", 1)), 4, CPU)
    assert len({tuple(counter) for counter in counters.T.tolist()}) == counters.shape[1] == 4 * (3 + 8 + 1)


def test_remembering_the_layout_changes_no_word() -> None:
    first = draw({"w": 8}, 2)["w"].clone()
    draw({"w": 8}, 2, Key(1, 1))
    assert torch.equal(draw({"w": 8}, 2)["w"], first)


@pytest.mark.slow
def test_a_draw_in_slices_is_the_draw() -> None:
    large = draw({"w": 4 * 2**16 + 4}, 2)["w"]
    alone = draw({"w": 40}, 2)["w"]
    assert torch.equal(large[:, :40], alone)


def test_names_hash_alike_in_every_process() -> None:
    code = "from forwardgrad.tangents.stream import name_hashes; print(*name_hashes(('a', 'layer.0.weight')))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert tuple(map(int, printed.split())) == name_hashes(("a", "layer.0.weight")) == (HASH_A, HASH_B)


def test_names_that_hash_alike_are_refused(monkeypatch) -> None:
    monkeypatch.setattr("forwardgrad.tangents.stream._HASH_BITS", 1)
    with pytest.raises(InputError, match="rename one of them") as caught:
        name_hashes(("p", "q", "r"))
    name_hashes.cache_clear()
    assert caught.value.path in ("q", "r")


def test_too_many_tangents_are_refused() -> None:
    with pytest.raises(InputError, match="num_tangents=1048577"):
        words((("w", 1),), 2**20 + 1, Key(0), CPU)


# What BLAKE2b says, written down so that another version of anything cannot change it unseen.
HASH_A, HASH_B = 6988878510144, 2393484824304
