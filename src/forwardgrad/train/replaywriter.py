"""The replay log while a run trains: a step at a time, each handed to the operating system at once."""

from __future__ import annotations

import os
import warnings
import zlib
from io import BufferedWriter
from typing import Any

from torch import Tensor

from forwardgrad.errors import CheckpointError
from forwardgrad.train.checkpoint import CheckpointWarning
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.replaylog import CRC_BYTES, Header, read
from forwardgrad.train.tensorbytes import tensor_bytes


class Writer:
    """Appends to a log, step by step, and gives it up where a run turns out not to be replayable.

    Args:
        output: the folder of logs.
        name: of the file.
    """

    def __init__(self, output: OutputFolder, name: str) -> None:
        self._output, self.path = output, output.path / name
        self._file: BufferedWriter | None = None
        self._names: tuple[str, ...] | None = None
        self._abandoned = False

    def go_on(self, step: int) -> None:
        """Cuts the log back to the first `step` steps, to append from there; too short a log is given up.

        Raises:
            OutputError: the log cannot be written.
        """
        if step == 0:
            self.path.unlink(missing_ok=True)
            return
        try:
            log = read(self.path)
            if len(log.slopes) < step:
                needs, found = "a replay log needs every step before the checkpoint", f"{len(log.slopes)} of {step}"
                raise CheckpointError(needs, found, "start over to have one", path=str(self.path))
        except CheckpointError as error:
            warnings.warn(f"No replay log for this run: {error}", CheckpointWarning, stacklevel=2)
            self.abandon()
            return
        try:
            os.truncate(self.path, len(log.header.line) + step * log.header.stride)
            self._file = self.path.open("ab")
        except OSError as error:
            raise self._output.refusal(error) from error
        self._names = tuple(log.header.names)

    def append(self, slopes: Tensor, names: tuple[str, ...], config: dict[str, Any], seed: int, steps: int) -> None:
        """Writes a step, and hands it to the operating system.

        Args:
            slopes: [K].
            names: parameters in the gradient.
            config: of the run, for the header; likewise `seed` and `steps`.
            seed: see `Header`.
            steps: see `Header`.

        Raises:
            OutputError: it cannot be written.
        """
        if self._abandoned:
            return
        if self._names is not None and names != self._names:
            self.abandon()  # another set of parameters than in the first step: the format has no room for that
            return
        data = tensor_bytes(slopes)
        data += zlib.crc32(data).to_bytes(CRC_BYTES, "little")
        if self._file is None:
            label = config["method"]["name"]
            header = Header(config, seed, steps, label, str(slopes.dtype), len(slopes), list(names))
            data, self._names = header.line + data, names
        try:
            self._file = self._file or self.path.open("wb")
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise self._output.refusal(error) from error

    def sync(self) -> None:
        """Makes all of it survive a power cut: a checkpoint must not know more steps than its log.

        Raises:
            OutputError: it cannot be written.
        """
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise self._output.refusal(error) from error

    def abandon(self) -> None:
        """Removes the log, and writes no more."""
        self.close()
        self._abandoned = True
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
