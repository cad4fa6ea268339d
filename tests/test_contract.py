"""Every row of the contract table, theorem by theorem; and that every method has a row and a truthful passport."""

from __future__ import annotations

import inspect

import pytest
import torch

import forwardgrad as fg
from forwardgrad import blackbox, exact, federated, methods
from forwardgrad.testing import CONTRACT, Contract, check_contract, theorems

CASES = [pytest.param(theorem, id=f"{row.name}: {name}") for row in CONTRACT for name, theorem in theorems(row).items()]
METHODS = [
    value
    for room in (methods, exact, blackbox, federated)
    for value in vars(room).values()
    if inspect.isclass(value) and hasattr(value, "passport")
]


@pytest.mark.parametrize("theorem", CASES)
def test_contract(theorem):
    theorem()


def test_rows_have_names_of_their_own():
    assert len({row.name for row in CONTRACT}) == len(CONTRACT)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_every_method_is_a_row(method):
    assert any(type(row.make()) is method for row in CONTRACT)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_the_docstring_shows_the_passport(method):
    """The same five lines, as data and as prose: shorter in the data only where the legend is left out."""
    doc = inspect.getdoc(method)
    for line in ("knows", "cost", "memory", "bias", "variance"):
        written = next(text for text in doc.splitlines() if text.startswith(f"{line.capitalize()}:"))
        claim = getattr(method.passport, line)
        shared = written.partition(":")[2].split()[:2]
        assert claim.split()[: len(shared)] == shared, f"{method.__name__}.{line}: {claim!r} against {written!r}"


def test_the_rung_of_the_passport_is_enough():
    """A method whose passport says values only gets nothing but values."""
    square = lambda params: (params["x"].square().sum()).item()
    x = {"x": torch.ones(3)}
    seen = {type(method): method for row in CONTRACT if (method := row.make()).passport.rung == 0}
    assert set(seen) == {method for method in METHODS if method.passport.rung == 0}
    for method in seen.values():
        assert method(square, x, key=fg.Key(0)).grad["x"].shape == (3,)


def test_a_broken_row_says_which_theorem_fails():
    broken = Contract("mine", lambda: fg.ForwardGradient(64, scale=3.0))
    with pytest.raises(AssertionError, match=r"mine, unbiased: .* is biased: over 40 draws .* z = "):
        check_contract(broken)


def test_an_honest_row_passes_whole():
    check_contract(Contract("mine", lambda: fg.ForwardGradient(2), variance=53 / 2, draws=10))
