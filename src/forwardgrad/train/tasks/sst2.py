"""SST-2: is a sentence from a film review kind or unkind? Phrases to train on, whole sentences to be judged by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Generator, nn

from forwardgrad.train.strict import PositiveInt
from forwardgrad.train.tasks.minilm import PACKAGE
from forwardgrad.train.tasks.sources import Files, Source, Together
from forwardgrad.train.tasks.task import Splits
from forwardgrad.train.tasks.texts import TextClassification, read_texts

FILES = Files(
    "text/sst2", ("train.tsv.gz", "dev.tsv.gz", "test_labeled.tsv.gz"), "data: none stated by the authors; cite"
)
SOURCE = Together(FILES, PACKAGE)
LEARNING_RATES = {"backprop": 0.03, "checkpointed": 0.03, "spsa": 3.0, "forward": 3.0, "control": 0.003}
_CLASSES = ("0", "1")  # unkind, kind


class Sst2(TextClassification):
    """Kind or unkind? About 67,000 phrases to train on, 872 sentences to select on, 1,821 to report on.

    Of the phrases and sentences one in 67,000 is longer than the 64 tokens of `max_length`.

    References:
        | Recursive deep models for semantic compositionality over a sentiment treebank (Socher et al., 2013)
        | GLUE (Wang et al., 2018), whose training phrases these are
    """

    epochs: ClassVar[float] = 0.5
    learning_rates: ClassVar[Mapping[str, float]] = LEARNING_RATES
    source: ClassVar[Source] = SOURCE
    remark: ClassVar[str] = "Reported on the treebank's 1,821 labelled test sentences, not on GLUE's hidden labels."
    name: Literal["sst2"] = "sst2"
    max_length: PositiveInt = 64

    def load(self) -> Splits:
        """Token numbers and labels; DataError where a file is missing, MissingExtraError without the packages."""
        folder = FILES.find(self.name)
        return self._splits(self.name, *(read_texts(folder / name, _CLASSES, header=True) for name in FILES.names))

    def build(self, generator: Generator) -> nn.Module:
        """MiniLM with fresh adapters and a fresh head."""
        return self._net(self.name, len(_CLASSES), generator)
