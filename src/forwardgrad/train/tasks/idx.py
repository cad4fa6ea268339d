"""IDX files, the format of MNIST and its relatives: read, checked, and missed with a helpful sentence.

Layout (big endian): two zero bytes, a type byte (8: unsigned byte), the number of dimensions, one 32-bit size
per dimension, then the entries in C order.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Generator, Tensor

from forwardgrad.errors import DataError
from forwardgrad.train.tasks.sources import Files
from forwardgrad.train.tasks.task import Splits

_UNSIGNED_BYTE = 8
_FILES = {
    "train images": "train-images-idx3-ubyte.gz",
    "train labels": "train-labels-idx1-ubyte.gz",
    "test images": "t10k-images-idx3-ubyte.gz",
    "test labels": "t10k-labels-idx1-ubyte.gz",
}
_NUM_CLASSES = 10
# The same validation split for every run and method: it belongs to the task, not to the seed of a run.
_SPLIT_SEED = 0


def read_idx(path: Path) -> Tensor:
    """The uint8 tensor in a gzipped IDX file.

    Args:
        path: the .gz file.

    Raises:
        DataError: the file is truncated, or is not gzip, or not IDX of unsigned bytes.
    """
    try:
        with gzip.open(path) as file:
            raw = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _foreign(path, f"a damaged gzip file ({error})") from error
    if len(raw) < 4 or raw[:3] != bytes([0, 0, _UNSIGNED_BYTE]):
        raise _foreign(path, f"a file that begins with {raw[:4].hex() or 'nothing'}")
    header = 4 + 4 * raw[3]
    if len(raw) < header:
        raise _foreign(path, "a header cut short")
    shape = struct.unpack(f">{raw[3]}I", raw[4:header])
    if len(raw) - header != math.prod(shape):
        raise _foreign(path, f"{len(raw) - header} entries for shape {shape}")
    return torch.frombuffer(bytearray(raw[header:]), dtype=torch.uint8).reshape(shape)


def idx_files(folder: str, licence: str) -> Files:
    """The four files of an MNIST-like task.

    Args:
        folder: subfolder of FORWARDGRAD_DATA.
        licence: one line.
    """
    return Files(folder, tuple(_FILES.values()), licence)


def read_images(task: str, source: Files, mean: float, std: float, num_validation: int) -> Splits:
    """Standardised, flattened images and labels of an MNIST-like task, split into train, validation and test.

    Args:
        task: name for messages.
        source: from `idx_files`.
        mean: pixel mean of the training images, on [0, 1].
        std: pixel standard deviation, on [0, 1].
        num_validation: how many training images are kept apart for selection.

    Raises:
        DataError: the variable, the folder or a file is missing or damaged.
    """
    folder = source.find(task)
    raw = {what: read_idx(folder / name) for what, name in _FILES.items()}
    images, labels = {}, {}
    for part in ("train", "test"):
        x, y = raw[f"{part} images"], raw[f"{part} labels"].long()
        if x.ndim != 3 or y.ndim != 1 or len(x) != len(y) or int(y.max()) >= _NUM_CLASSES:
            found = f"{part} images of shape {tuple(x.shape)} with labels of shape {tuple(y.shape)}"
            raise _foreign(folder, found)
        images[part] = (x.flatten(1).float() / 255 - mean) / std  # [N, pixels]
        labels[part] = y
    order = torch.randperm(len(labels["train"]), generator=Generator().manual_seed(_SPLIT_SEED))
    kept, held = order[num_validation:], order[:num_validation]
    return Splits(
        train=(images["train"][kept], labels["train"][kept]),
        validation=(images["train"][held], labels["train"][held]),
        test=(images["test"], labels["test"]),
    )


def _foreign(path: Path, found: str) -> DataError:
    return DataError("reading images needs whole IDX files", found, "fetch the file again", path=str(path))
