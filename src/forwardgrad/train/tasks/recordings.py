"""Spoken recordings read from one array file, or from the authors' folder of wav files."""

from __future__ import annotations

import wave
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from forwardgrad.errors import DataError

RATE = 8000  # samples per second
WAV_FOLDER = "recordings"
_ARRAYS = "fsdd_int16.npz"
_NUM_CLASSES = 10


@dataclass(frozen=True)
class Recordings:
    """Clips of different lengths.

    Args:
        clips: int16 samples of each.
        label: the digit spoken [N].
        take: which of a speaker's attempts at this digit [N].
    """

    clips: list[np.ndarray]
    label: Tensor
    take: Tensor

    def padded(self, length: int) -> Tensor:
        """Samples [N, length] on [-1, 1]: cut, or followed by silence."""
        waves = torch.zeros(len(self.clips), length)
        for row, clip in zip(waves, self.clips, strict=True):
            kept = torch.from_numpy(clip[:length].astype(np.float32))
            row[: len(kept)] = kept / 2**15
        return waves


def read(folder: Path) -> Recordings:
    """All recordings of a folder; the array file where there is one, else `recordings/DIGIT_SPEAKER_TAKE.wav`.

    Args:
        folder: holds either.

    Raises:
        DataError: a file is damaged or foreign.
    """
    packed = folder / _ARRAYS
    return _read_arrays(packed) if packed.is_file() else _read_waves(folder / WAV_FOLDER)


def foreign(path: Path, found: str) -> DataError:
    """The error for files that are not what they should be."""
    needs = "task `fsdd` needs recordings of 16 bits at 8 kHz with their digit and take"
    return DataError(needs, found, "fetch them again", path=str(path))


def _read_arrays(path: Path) -> Recordings:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        samples, offsets, label, take = (arrays[name] for name in ("samples", "offsets", "label", "take"))
    except KeyError as error:
        raise foreign(path, f"no array {error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise foreign(path, f"a damaged file ({error})") from error
    if not len(offsets) - 1 == len(label) == len(take) or offsets[-1] != len(samples) or samples.dtype != np.int16:
        raise foreign(path, f"{len(label)} labels for {len(offsets) - 1} clips of {samples.dtype}")
    if int(arrays.get("rate", RATE)) != RATE or not 0 <= label.min() <= label.max() < _NUM_CLASSES:
        raise foreign(path, "another rate, or labels that are no digits")
    clips = [samples[start:stop] for start, stop in pairwise(offsets)]
    return Recordings(clips, torch.from_numpy(label).long(), torch.from_numpy(take).long())


def _read_waves(folder: Path) -> Recordings:
    clips, label, take = [], [], []
    for path in sorted(folder.glob("*.wav")):
        try:
            digit, _, number = path.stem.split("_")
            with wave.open(str(path)) as file:
                if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, RATE):
                    raise foreign(path, f"{file.getparams()}")
                clips.append(np.frombuffer(file.readframes(file.getnframes()), dtype="<i2"))
            label.append(int(digit))
            take.append(int(number))
        except (ValueError, EOFError, wave.Error) as error:
            raise foreign(path, f"a damaged or misnamed file ({error})") from error
    if not clips or not 0 <= min(label) <= max(label) < _NUM_CLASSES:
        raise foreign(folder, f"{len(clips)} wav files named after digits")
    return Recordings(clips, torch.tensor(label), torch.tensor(take))
