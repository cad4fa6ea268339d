"""Independent random streams out of one seed."""

from __future__ import annotations

from hashlib import blake2b

from torch import Generator


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose, so that no two purposes share a stream, and neighbouring seeds none either.

    Args:
        seed: of the run.
        purpose: "weights", "order", "dropout", ...
    """
    digest = blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # torch takes 63 bits on every platform


def stream(seed: int, purpose: str) -> Generator:
    """The generator for one purpose."""
    return Generator().manual_seed(derived_seed(seed, purpose))
