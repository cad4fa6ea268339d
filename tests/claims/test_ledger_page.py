"""The page of claims is built from records alone, and not at all where one is missing or stale."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("sphinx")
pytest.importorskip("matplotlib")

from sphinx.errors import ExtensionError

from forwardgrad.claims import ledger

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("ledger")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "bench" / "claims", tmp_path / "records"))


def test_every_claim_has_its_row_its_checks_and_its_verdict(page, tmp_path):
    page.write(tmp_path)
    text = (tmp_path / "claims.md").read_text()
    for claim in ledger():
        assert f"## {claim.id}" in text and claim.sentence in text
    assert text.count("| what must hold |") == len(ledger())


def test_a_missing_or_stale_record_stops_the_build(page, records, tmp_path):
    path = records / "forward-gradient-bf16.quick.json"  # a claim of one tier, so that no other speaks for it
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | {"fingerprint": "0" * 16}))
    with pytest.raises(ExtensionError, match="stale one of forward-gradient-bf16"):
        page.write(tmp_path, records)
    path.write_text("{}")
    with pytest.raises(ExtensionError, match="something else"):
        page.write(tmp_path, records)
    path.unlink()
    with pytest.raises(ExtensionError, match="found none of forward-gradient-bf16"):
        page.write(tmp_path, records)
