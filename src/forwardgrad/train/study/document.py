"""What `--json` prints: the record, and for a comparison the rows computed from it."""

from __future__ import annotations

import json
from dataclasses import asdict

from forwardgrad.train.record import Record
from forwardgrad.train.study.standings import standings


def document(record: Record) -> bytes:
    """The record as JSON, a comparison's with `standings` beside its entries; these are stored nowhere.

    Args:
        record: of any command.
    """
    if record.study is None:
        return record.to_json()
    tree = asdict(record) | {"standings": [asdict(row) for row in standings(record)]}
    return (json.dumps(tree, indent=1, allow_nan=False) + "\n").encode()
