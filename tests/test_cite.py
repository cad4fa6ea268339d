"""References for exactly the methods in use, and none that a docstring does not name."""

from __future__ import annotations

import inspect
import re

import pytest

import forwardgrad as fg
from forwardgrad import blackbox, exact, fixedpoint, methods

METHODS = [
    value
    for room in (methods, blackbox, exact, fixedpoint)
    for value in vars(room).values()
    if inspect.isclass(value) and hasattr(value, "passport")
]


def arxiv(text):
    return set(re.findall(r"\b\d{4}\.\d{4,5}\b", text))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_every_paper_that_a_docstring_names_is_cited(method):
    assert arxiv(fg.cite(method)) == arxiv(method.__doc__)
    references = re.findall(r"^        \| ", method.__doc__, re.MULTILINE)
    assert len(re.findall(r"^@", fg.cite(method), re.MULTILINE)) == len(references) > 0


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_the_passport_names_a_paper(method):
    assert re.search(r"\b(19|20)\d\d\b", method.passport.paper)
    assert arxiv(method.passport.paper) <= arxiv(method.__doc__)


def test_methods_and_their_classes_are_cited_alike():
    assert fg.cite(fg.ForwardGradient(4)) == fg.cite(fg.ForwardGradient)


def test_each_paper_once_and_entries_that_parse():
    both = fg.cite(fg.SPSA(), fg.SPSA(), fg.ForwardGradient(), fg.CheckpointedBackprop())
    keys = re.findall(r"^@\w+\{(\w+),$", both, re.MULTILINE)
    assert len(keys) == len(set(keys)) == 6
    for entry in both.split("\n\n"):
        assert entry.count("{") == entry.count("}") and entry.startswith("@") and entry.endswith("}")
        assert {"title", "author", "year"} <= set(re.findall(r"^  (\w+)=\{", entry, re.MULTILINE))


def test_nothing_to_cite():
    assert fg.cite() == "" == fg.cite(object())
