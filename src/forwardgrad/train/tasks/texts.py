"""Texts with labels: read, checked, tokenised once, and told apart by MiniLM with adapters.

Shapes: N texts, T tokens.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from forwardgrad.errors import DataError
from forwardgrad.train.strict import PositiveInt
from forwardgrad.train.tasks.classification import Classification, score
from forwardgrad.train.tasks.minilm import PACKAGE, PAD, TOKENIZER, base_file, minilm
from forwardgrad.train.tasks.task import Batch, Score, Splits

_CHUNK = 64  # texts scored at once: bounds the memory of an evaluation


class Texts(NamedTuple):
    """Texts and the number of each one's class."""

    texts: list[str]
    labels: list[int]


class TextClassification(Classification):
    """What text tasks share: MiniLM, frozen, with LoRA on query and value and a linear head.

    Args:
        max_length: tokens; what is longer loses its end.
        rank: of the adapters.
        batch_size: texts per batch.
    """

    max_length: PositiveInt
    rank: PositiveInt = 4
    batch_size: PositiveInt = 16

    def score(self, model: nn.Module, part: Batch) -> Score:
        """Mean cross-entropy and accuracy on a whole part; long texts meet long ones, so that little is padding."""
        ids, labels = part
        order = (ids != PAD).sum(1).argsort(stable=True)
        return score(model, (ids[order], labels[order]), _CHUNK)

    def _net(self, task: str, classes: int, generator: Generator) -> nn.Module:
        return minilm(task, classes, self.rank, generator)

    def _splits(self, task: str, *parts: Texts) -> Splits:
        """Token numbers [N, T] and labels [N]; the training part leaves out what the others hold."""
        train, validation, test = parts
        held = {*validation.texts, *test.texts}
        kept = [pair for pair in zip(*train, strict=True) if pair[0] not in held]
        train = Texts([text for text, _ in kept], [label for _, label in kept])
        return Splits(*(self._numbered(task, part) for part in (train, validation, test)))

    def _numbered(self, task: str, part: Texts) -> Batch:
        return tokens(task, part.texts, self.max_length), torch.tensor(part.labels)


def read_texts(path: Path, classes: Sequence[str], header: bool = False) -> Texts:
    """The texts in a gzipped file of `text<TAB>class` lines, white space around a text left out.

    Args:
        path: the .tsv.gz file.
        classes: as the file spells them, in the order of their numbers.
        header: whether the first line names the columns.

    Raises:
        DataError: the file is truncated, not gzip, or not of this form.
    """
    needs, cure = "reading texts needs a whole file of `text<TAB>class` lines", "fetch the file again"
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(needs, f"a damaged file ({error})", cure, path=str(path)) from error
    numbers = {name: number for number, name in enumerate(classes)}
    texts, labels = [], []
    for place, line in enumerate(lines[header:], 1 + header):
        if not line and place == len(lines):
            break
        text, tab, label = line.rstrip("\r").rpartition("\t")
        if not tab or label not in numbers:
            found = f"line {place} with the class `{label[:40]}` instead of one of {', '.join(classes)}"
            raise DataError(needs, found, cure, path=str(path))
        texts.append(text.strip())
        labels.append(numbers[label])
    if not texts:
        raise DataError(needs, "no text", cure, path=str(path))
    return Texts(texts, labels)


def tokens(task: str, texts: Sequence[str], max_length: int) -> Tensor:
    """Token numbers [N, T] with T = `max_length`, padded at the end.

    Args:
        task: name for messages.
        texts: N of them.
        max_length: T.

    Raises:
        MissingExtraError: a package is not installed.
    """
    try:
        from tokenizers import Tokenizer  # inside: other tasks need none
    except ImportError as error:
        raise PACKAGE.missing(task) from error
    tokenizer = Tokenizer.from_file(str(base_file(task, TOKENIZER)))
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(pad_id=PAD, length=max_length)
    return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(list(texts))])
