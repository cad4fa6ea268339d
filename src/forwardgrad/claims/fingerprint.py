"""Whether the code behind a record is still the code that ran: a checksum of what it does, not of how it is written."""

from __future__ import annotations

import ast
import hashlib
from importlib.util import find_spec
from pathlib import Path

from forwardgrad.claims.claim import Claim
from forwardgrad.errors import InputError


def fingerprint(claim: Claim) -> str:
    """Checksum of the claim's own file and of the modules it depends on, comments and docstrings left out.

    Args:
        claim: from the ledger.

    Raises:
        InputError: it depends on a module that is not there.
    """
    digest = hashlib.sha256()
    for module in (claim.experiment.__module__, *claim.depends):
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            raise InputError("a claim depends on modules", f"no {module}", "mend `depends`", path=claim.id)
        digest.update(meaning(Path(spec.origin).read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def meaning(source: str) -> str:
    """Python source without what changes no figure: comments, docstrings, layout, types, and how a picture is drawn.

    Args:
        source: of a module.
    """
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not _only_shows(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.Call):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != _PICTURE]
    return ast.dump(tree)


def _only_shows(node: ast.stmt) -> bool:
    match node:
        case ast.FunctionDef(name=name):
            return name == _PICTURE
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.ImportFrom(module="typing"):
            return True
    return False


_PICTURE = "draw"  # the function, and the argument of `Claim`
