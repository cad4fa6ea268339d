"""Stock Hugging Face models from a folder, for a look at them: weights where they are, fresh ones where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from forwardgrad.errors import InputError, MissingExtraError

_NEEDS = "a Hugging Face folder needs a config.json that transformers knows"


def model_and_batch(path: Path, shape: tuple[int, int], seed: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model that a folder describes, in training mode, and a batch of random tokens with labels.

    Args:
        path: a folder, or the config.json in it.
        shape: samples and tokens.
        seed: of the weights, where there are none, and of the tokens.

    Raises:
        InputError: transformers cannot read the folder, or has no model with a loss for it.
        MissingExtraError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        cure = "pip install forwardgrad[hf]"
        raise MissingExtraError("a Hugging Face folder needs transformers", "no such package", cure) from error
    folder = path.parent if path.is_file() else path
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        found = str(error).splitlines()[0]
        raise InputError(_NEEDS, found, "give a folder saved by `save_pretrained`", path=str(path)) from error
    names = config.architectures or ()
    kinds = [kind for name in names if (kind := getattr(transformers, name, None)) is not None]
    if not kinds:
        found = f"architectures {', '.join(names) or 'none'}"
        raise InputError(_NEEDS, found, "name a class of transformers there", path=f"{folder}/config.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if any(folder.glob("*.safetensors")):
            model = kinds[0].from_pretrained(folder, local_files_only=True)
        else:
            model = kinds[0](config)
    return model.train(), _batch(model, config, shape, seed, path)


def own_loss(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The loss that the model computes from its labels.

    Args:
        model: of transformers, with a head.
        inputs: its keyword arguments, labels among them.
    """
    return model(**inputs).loss


def _batch(model: Any, config: Any, shape: tuple[int, int], seed: int, path: Path) -> dict[str, Tensor]:
    vocabulary, name = getattr(config, "vocab_size", None), type(model).__name__
    longest = getattr(config, "max_position_embeddings", None) or shape[1]
    if not isinstance(vocabulary, int) or longest < shape[1]:
        found = f"{name} with a vocabulary of {vocabulary} and {longest} positions, for {shape[1]} tokens"
        cure = "choose a shorter --batch, or write a function that returns (model, loss_fn, *batch)"
        raise InputError("a made-up batch needs a model of tokens", found, cure, path=str(path))
    generator = Generator().manual_seed(seed)
    tokens = torch.randint(vocabulary, shape, generator=generator)  # [B, T]
    if "ForSequenceClassification" in name:
        labels = torch.randint(config.num_labels, shape[:1], generator=generator)
    elif "LMHeadModel" in name or "ForCausalLM" in name or "ForMaskedLM" in name or "ForConditionalGeneration" in name:
        labels = tokens
    else:
        cure = "choose a model for causal or masked language or sequence classification, or write a function"
        raise InputError("a made-up batch needs a model whose loss is known", name, cure, path=str(path))
    return {"input_ids": tokens, "labels": labels}
