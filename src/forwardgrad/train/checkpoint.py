"""Checkpoints: one safetensors file each, whole or not there, with a checksum over all it holds."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from forwardgrad.errors import CheckpointError
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import versions
from forwardgrad.train.tensorbytes import tensor_bytes
from forwardgrad.train.tree import flatten, unflatten

FORMAT = "forwardgrad.checkpoint/2"
_NEEDS = "a checkpoint needs a whole file of this run"
_PACKAGES = ("torch", "machine")  # of these the last bits of a result depend


class CheckpointWarning(UserWarning):
    """A checkpoint that could not be used, or may not continue to the last bit."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: one method, one seed.

    Args:
        output: the folder `checkpoints` of a command's output.
        stem: begins the file names; unlike that of any other run.
        keep: how many files stay, the newest ones.
        identity: plain values that a file must share with the run that reads it: its config and seed.
    """

    output: OutputFolder
    stem: str
    keep: int
    identity: Mapping[str, Any]

    def save(self, step: int, state: Any) -> Path:
        """Writes a checkpoint, then drops the oldest ones that are too many.

        Args:
            step: optimizer steps taken.
            state: what `latest` gives back: mappings, lists, numbers, strings and tensors.

        Raises:
            OutputError: it cannot be written; the ones before are untouched.
        """
        skeleton, tensors = flatten(state)
        facts = {"step": step, "identity": self.identity, "versions": versions(), "state": skeleton}
        path = self.output.write(f"{self.stem}-step{step:09d}.safetensors", encode(facts, tensors))
        self.prune(self.keep)
        return path

    def latest(self) -> Any:
        """The state in the newest good checkpoint; None where there is no file at all.

        A file that is damaged, or of another run, is passed over with a `CheckpointWarning`.

        Raises:
            CheckpointError: there are files, and none of them is good.
        """
        files = self._files()
        now = versions()
        for path in files:
            try:
                facts, tensors = decode(path)
                if facts["identity"] != json.loads(json.dumps(self.identity)):
                    found, cure = "one of another config or seed", "put back the one that was there"
                    raise CheckpointError(_NEEDS, found, cure, path=str(path))
                state = unflatten(facts["state"], tensors)
            except CheckpointError as error:
                warnings.warn(f"Passed over: {error}", CheckpointWarning, stacklevel=2)
                continue
            then = facts["versions"]
            for package in (name for name in _PACKAGES if now[name] != then.get(name)):
                moved = f"{package} {then.get(package)} wrote {path}, {now[package]} reads it"
                warnings.warn(f"The last bits may differ: {moved}.", CheckpointWarning, stacklevel=2)
            return state
        if files:
            cure = "delete them to start this run over, or restore them from a copy"
            raise CheckpointError(_NEEDS, f"no good one among {len(files)}", cure, path=str(files[0].parent))
        return None

    def newest(self) -> Path | None:
        """The newest file; None where there is none."""
        return next(iter(self._files()), None)

    def count(self) -> int:
        """How many files there are."""
        return len(self._files())

    def prune(self, keep: int) -> None:
        """Drops all but the `keep` newest files."""
        for path in self._files()[keep:]:
            with suppress(OSError):  # a file too many is no reason to stop
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.output.path.glob(f"{self.stem}-step*.safetensors"), reverse=True)


def encode(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a checkpoint.

    Args:
        facts: plain values, kept as JSON in the header.
        tensors: contiguous, none sharing memory with another.
    """
    text = json.dumps(facts)
    header = {"format": FORMAT, "facts": text, "checksum": _digest(text, tensors)}
    return save(dict(tensors), metadata=header)


def decode(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and tensors of a checkpoint.

    Raises:
        CheckpointError: the file cannot be read, is no checkpoint, or is not what was written.
    """
    cure = "go back to an older one"
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(_NEEDS, f"format {header.get('format')}", cure, path=str(path))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(_NEEDS, f"a damaged one ({error})", cure, path=str(path)) from error
    if header["checksum"] != _digest(header["facts"], tensors):
        raise CheckpointError(_NEEDS, "bytes that do not fit their checksum", cure, path=str(path))
    return json.loads(header["facts"]), tensors


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
