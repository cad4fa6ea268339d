"""Pictures in files: numpy archives of pixels, and parquet files of JPEGs.

Shapes: N pictures, all of 32x32 pixels in three colours.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from forwardgrad.errors import DataError
from forwardgrad.train.tasks.sources import Package

PACKAGE = Package("pyarrow", "images", "package Apache-2.0")
SIDE, CLASSES = 32, 10
_NEEDS, _CURE = "reading pictures needs whole files of 32x32 colour pictures and their labels", "fetch the file again"


class Pictures(NamedTuple):
    """Pixels uint8 [N, 32, 32, 3] and labels [N]."""

    pixels: np.ndarray
    labels: np.ndarray


def read_archive(path: Path) -> Pictures:
    """The arrays `x` and `y` of an .npz file.

    Raises:
        DataError: the file is damaged, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(_NEEDS, f"a damaged file ({error})", _CURE, path=str(path)) from error
    if "x" not in arrays or "y" not in arrays:
        raise DataError(_NEEDS, f"the arrays {', '.join(arrays)}", _CURE, path=str(path))
    return _checked(arrays["x"], arrays["y"], path)


def read_jpegs(path: Path, task: str) -> Pictures:
    """The columns `jpeg` (bytes) and `label` of a parquet file.

    Args:
        path: of the file.
        task: name for messages.

    Raises:
        MissingExtraError: pyarrow or Pillow is not installed.
        DataError: the file is damaged, or holds something else.
    """
    try:
        from PIL import Image  # inside: other copies need neither
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise PACKAGE.missing(task) from error
    try:
        table = read_table(path, columns=["jpeg", "label"])
        pictures = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in table["jpeg"].to_pylist()]
        labels = table["label"].to_numpy().astype(np.int64)  # a copy: torch wants to own what it shares
        pixels = np.stack(pictures)
    except (OSError, ValueError, KeyError, TypeError) as error:  # what pyarrow, Pillow and numpy raise
        raise DataError(_NEEDS, f"a damaged file ({error})", _CURE, path=str(path)) from error
    return _checked(pixels, labels, path)


def _checked(pixels: np.ndarray, labels: np.ndarray, path: Path) -> Pictures:
    fits = pixels.shape == (len(labels), SIDE, SIDE, 3) and pixels.dtype == np.uint8 and labels.ndim == 1
    if not fits or not len(labels) or not 0 <= labels.min() <= labels.max() < CLASSES:
        found = f"{pixels.dtype} images of shape {pixels.shape} with labels of shape {labels.shape}"
        raise DataError(_NEEDS, found, _CURE, path=str(path))
    return Pictures(pixels, labels)
