"""Where the tasks' files come from, and how they become the files that the tasks read.

Each loader takes a scratch folder and gives contents by file name. Where the published bytes are known, they are
compared: an order or a version that changed at the source would be another data set.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from forwardgrad.errors import DataError
from forwardgrad.train.tasks import ag_news, cifar10, fashion_mnist, mnist, recordings, shakespeare, spoken_digits, sst2
from forwardgrad.train.tasks.manifest import check
from forwardgrad.train.tasks.sources import Files

_SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_FSDD = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip"
# Of the IDX files before compression: training images and labels, test images and labels.
_MNIST_SHA256 = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
_FASHION_SHA256 = (
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
_CIFAR_SHA256 = "bac45b45504ed1289a3f437be4bfbefece248abbc094a428a0b4dfab00e776ae"  # the first 4,000 training images
_TRAIN, _CIFAR_TRAIN = 60_000, 50_000  # training images come first, the test images after them
_AG_NEWS_ROWS = 10_001  # as many as the file of that name has; drawn from all 120,000 by a seed of their own
_AG_NEWS_SEED = 0


@dataclass(frozen=True)
class Fetcher:
    """How a task's files are fetched.

    Args:
        files: what they are called, and where they belong.
        origin: in words.
        load: gives their contents by name, for a scratch folder that vanishes afterwards.
    """

    files: Files
    origin: str
    load: Callable[[Path], dict[str, bytes]]

    @property
    def intact(self) -> bool:
        """Whether the files that are there are those that were fetched, or were put there by hand."""
        try:
            check(self.files.target, self.files.names, "")
        except DataError:
            return False
        return True


def _openml(name: str, scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [N, pixels] and labels uint8 [N], in OpenML's order."""
    from sklearn.datasets import fetch_openml  # inside: an extra

    pixels, labels = fetch_openml(name, version=1, as_frame=False, return_X_y=True, data_home=str(scratch))
    return np.asarray(pixels).astype(np.uint8), np.asarray(labels).astype(np.int64).astype(np.uint8)


def _idx_images(files: Files, name: str, sums: Sequence[str], scratch: Path) -> dict[str, bytes]:
    pixels, labels = _openml(name, scratch)
    contents = {}
    for part, names in ((slice(0, _TRAIN), files.names[:2]), (slice(_TRAIN, None), files.names[2:])):
        for file, array in zip(names, (pixels[part].reshape(-1, 28, 28), labels[part]), strict=True):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            contents[file] = header + array.tobytes()
    for (file, content), known in zip(contents.items(), sums, strict=True):
        _published(file, content, known)
    return {file: _packed(content) for file, content in contents.items()}


def _cifar10(scratch: Path) -> dict[str, bytes]:
    pixels, labels = _openml("CIFAR_10", scratch)
    pixels = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    _published("CIFAR_10", pixels[:4000].tobytes(), _CIFAR_SHA256)
    contents = {}
    for name, part in zip(cifar10.ORIGINAL.names, (slice(0, _CIFAR_TRAIN), slice(_CIFAR_TRAIN, None)), strict=True):
        file = io.BytesIO()
        np.savez_compressed(file, x=pixels[part], y=labels[part])
        contents[name] = file.getvalue()
    return contents


def _shakespeare(scratch: Path) -> dict[str, bytes]:
    from pooch import retrieve  # inside: an extra

    path = retrieve(_SHAKESPEARE, known_hash=f"sha256:{_SHAKESPEARE_SHA256}", path=scratch)
    return {shakespeare.SOURCE.names[0]: _packed(Path(path).read_bytes())}


def _fsdd(scratch: Path) -> dict[str, bytes]:
    from pooch import retrieve  # inside: an extra

    with ZipFile(retrieve(_FSDD, known_hash=None, path=scratch)) as archive:  # the host packs anew, other bytes
        archive.extractall(scratch)
    (folder,) = scratch.glob(f"*/{recordings.WAV_FOLDER}")
    found = recordings.read(folder.parent)
    offsets = np.cumsum([0, *map(len, found.clips)])
    file = io.BytesIO()
    samples = np.concatenate(found.clips).astype(np.int16)
    np.savez_compressed(file, samples=samples, offsets=offsets, label=found.label.numpy(), take=found.take.numpy())
    return {spoken_digits.SOURCE.names[0]: file.getvalue()}


def _sst2(scratch: Path) -> dict[str, bytes]:
    phrases, whole = _hugging_face("stanfordnlp/sst2", scratch), _hugging_face("SetFit/sst2", scratch)
    parts = (phrases["train"], phrases["validation"], whole["test"])  # the first has no labels for its test part
    contents = {}
    for name, part in zip(sst2.FILES.names, parts, strict=True):
        texts = part["sentence"] if "sentence" in part.column_names else part["text"]
        rows = zip(texts, map(str, part["label"]), strict=True)
        contents[name] = _table([("sentence", "label"), *rows])
    return contents


def _ag_news(scratch: Path) -> dict[str, bytes]:
    found = _hugging_face("fancyzhx/ag_news", scratch)
    classes = found["test"].features["label"].names
    order = np.random.default_rng(_AG_NEWS_SEED).permutation(len(found["train"]))[:_AG_NEWS_ROWS]
    parts = (found["train"].select(sorted(order.tolist())), found["test"])
    return {
        name: _table(list(zip(part["text"], (classes[label] for label in part["label"]), strict=True)))
        for name, part in zip(ag_news.FILES.names, parts, strict=True)
    }


def _hugging_face(name: str, scratch: Path) -> Mapping[str, Any]:
    import datasets  # inside: an extra

    return datasets.load_dataset(name, cache_dir=str(scratch))


def _table(rows: Sequence[tuple[str, str]]) -> bytes:
    return _packed("".join(f"{' '.join(text.split())}\t{label}\n" for text, label in rows).encode())


def _packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # the same bytes every time


def _published(name: str, content: bytes, known: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != known:
        needs, cure = f"fetching needs {name} as it was published", "put the original files there by hand"
        raise DataError(needs, f"other bytes or another order (SHA-256 {found[:12]}...)", cure)


FETCHERS = {
    "mnist": Fetcher(mnist.SOURCE, "OpenML", partial(_idx_images, mnist.SOURCE, "mnist_784", _MNIST_SHA256)),
    "fashion-mnist": Fetcher(
        fashion_mnist.SOURCE, "OpenML", partial(_idx_images, fashion_mnist.SOURCE, "Fashion-MNIST", _FASHION_SHA256)
    ),
    "cifar10": Fetcher(cifar10.ORIGINAL, "OpenML", _cifar10),
    "tinyshakespeare": Fetcher(shakespeare.SOURCE, "GitHub", _shakespeare),
    "fsdd": Fetcher(spoken_digits.SOURCE, "GitHub", _fsdd),
    "sst2": Fetcher(sst2.FILES, "Hugging Face", _sst2),
    "ag-news": Fetcher(ag_news.FILES, "Hugging Face", _ag_news),
}
