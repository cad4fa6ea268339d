"""Whether the code behind a record is still the code that ran: a checksum of what it does, not of how it is written."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from forwardgrad.claims.claim import Claim
from forwardgrad.errors import InputError


def fingerprint(claim: Claim) -> str:
    """Checksum of the claim's own file and of the modules it depends on: what decides figures, and nothing else.

    Comments and docstrings are left out, and of the claim's own file its picture: the function `draw`.

    Args:
        claim: from the ledger.

    Raises:
        InputError: it depends on a module that is not there.
    """
    digest = hashlib.sha256(_source(claim, claim.experiment.__module__, without_picture).encode())
    for module in claim.depends:
        digest.update(_source(claim, module, meaning).encode())
    return digest.hexdigest()[:16]


def meaning(source: str) -> str:
    """Python source without what changes no figure: comments, docstrings, layout.

    Args:
        source: of a module.
    """
    return ast.dump(_without_docstrings(ast.parse(source)))


def without_picture(source: str) -> str:
    """The same for a claim's file, without the picture either: the function `draw`, and what only type checkers read.

    Args:
        source: of a module that ends in `CLAIM = Claim(...)`.
    """
    tree = _without_docstrings(ast.parse(source))
    tree.body = [node for node in tree.body if not _for_the_picture(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "draw"]
        elif isinstance(node, ast.ImportFrom):
            node.names = [alias for alias in node.names if alias.name != "TYPE_CHECKING"]
    tree.body = [node for node in tree.body if not (isinstance(node, ast.ImportFrom) and not node.names)]
    return ast.dump(tree)


def _for_the_picture(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef) and node.name == "draw"


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _source(claim: Claim, module: str, read: Callable[[str], str]) -> str:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError("a claim depends on modules", f"no {module}", "mend `depends`", path=claim.id)
    return read(Path(spec.origin).read_text(encoding="utf-8"))
