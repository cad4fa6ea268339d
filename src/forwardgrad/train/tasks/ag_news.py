"""AG News: what is a piece of news about, the world, sports, business, or science and technology?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Generator, nn

from forwardgrad.train.strict import PositiveInt
from forwardgrad.train.tasks.minilm import PACKAGE
from forwardgrad.train.tasks.sources import Files, Source, Together
from forwardgrad.train.tasks.task import Splits
from forwardgrad.train.tasks.texts import TextClassification, Texts, read_texts

FILES = Files("text/ag_news", ("train_10k.tsv.gz", "test.tsv.gz"), "data: non-commercial research use; cite")
SOURCE = Together(FILES, PACKAGE)
LEARNING_RATES = {"backprop": 0.03, "checkpointed": 0.03, "spsa": 3.0, "forward": 3.0, "control": 0.003}
_CLASSES = ("World", "Sports", "Business", "Sci/Tech")
_NUM_VALIDATION = 500  # scoring a text costs as much as training on it
_SPLIT_SEED = 0  # the split belongs to the task, not to the seed of a run


class AgNews(TextClassification):
    """Which section? About 9,500 texts to train on, 500 to select on, the 7,600 test texts to report on.

    References:
        | Character-level convolutional networks for text classification (Zhang, Zhao, LeCun, 2015)
    """

    epochs: ClassVar[float] = 3
    learning_rates: ClassVar[Mapping[str, float]] = LEARNING_RATES
    source: ClassVar[Source] = SOURCE
    remark: ClassVar[str] = "Trained on 10,000 of the 120,000 training texts; tested on all of the test texts."
    name: Literal["ag-news"] = "ag-news"
    max_length: PositiveInt = 64

    def load(self) -> Splits:
        """Token numbers and labels; DataError where a file is missing, MissingExtraError without the packages."""
        folder = FILES.find(self.name)
        rows, test = (read_texts(folder / name, _CLASSES) for name in FILES.names)
        # A text that comes twice must not be in two parts.
        tested = set(test.texts)
        once = [row for row in dict(zip(*rows, strict=True)).items() if row[0] not in tested]
        order = torch.randperm(len(once), generator=Generator().manual_seed(_SPLIT_SEED)).tolist()
        held, kept = order[:_NUM_VALIDATION], order[_NUM_VALIDATION:]
        train, validation = (Texts([once[i][0] for i in part], [once[i][1] for i in part]) for part in (kept, held))
        return self._splits(self.name, train, validation, test)

    def build(self, generator: Generator) -> nn.Module:
        """MiniLM with fresh adapters and a fresh head."""
        return self._net(self.name, len(_CLASSES), generator)
