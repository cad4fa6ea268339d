"""Stock Hugging Face models, unmodified and with attention left on its default, against reverse mode.

Small in every dimension, and real in every part: grouped queries, rotary and relative positions, tied embeddings,
padding, encoder and decoder, dropout in train mode under the same seed. A push is strict: no fallback, no exit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from forwardgrad.tangents.kinds import Dense, RankOne

transformers = pytest.importorskip("transformers")

VOCABULARY, WIDTH, BATCH, TOKENS, PAD = 61, 16, 3, 9, 1
TEXT = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": PAD}
DECODER = {
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "attention_dropout": 0.1,
}
ENCODER = {
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}


class Case(NamedTuple):
    model: nn.Module
    loss_fn: Callable[..., Tensor]
    batch: tuple[Any, ...]


def tokens() -> Tensor:
    return torch.randint(3, VOCABULARY, (BATCH, TOKENS))


def own_loss(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with AllInDouble() if model.dtype == torch.float64 else nullcontext():
        return model(**inputs).loss


class AllInDouble(TorchFunctionMode):
    """The models cast to float32 in their norms, rotary positions and losses; here they cast to float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.float:
            func = Tensor.double
        args, kwargs = tree_map_only(torch.dtype, self.wider, (args, kwargs or {}))
        return func(*args, **kwargs)

    def wider(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float64 if dtype == torch.float32 else dtype


def language(model: nn.Module, **more: Tensor) -> Case:
    x = tokens()
    return Case(model, own_loss, ({"input_ids": x, "labels": x, **more},))


def padded(model: nn.Module) -> Case:
    """The last tokens of one row are padding, which neither attends nor counts."""
    x = tokens()
    x[1, 6:] = PAD
    inputs = {"input_ids": x, "attention_mask": (x != PAD).long(), "labels": x.masked_fill(x == PAD, -100)}
    return Case(model, own_loss, (inputs,))


def gpt2() -> Case:
    config = transformers.GPT2Config(n_positions=32, n_embd=WIDTH, n_layer=2, n_head=4, **TEXT)
    return language(transformers.GPT2LMHeadModel(config))


def gpt2_padded() -> Case:
    return padded(gpt2().model)


def llama() -> Case:
    return language(transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER, **TEXT)))


def llama_padded() -> Case:
    return padded(llama().model)


def qwen3() -> Case:
    config = transformers.Qwen3Config(**DECODER, **TEXT, head_dim=8, tie_word_embeddings=True)
    return language(transformers.Qwen3ForCausalLM(config))


def bert() -> Case:
    return padded(transformers.BertForMaskedLM(transformers.BertConfig(**ENCODER, **TEXT)))


def roberta() -> Case:
    return padded(transformers.RobertaForMaskedLM(transformers.RobertaConfig(**ENCODER, **TEXT)))


def opt() -> Case:
    config = transformers.OPTConfig(
        hidden_size=WIDTH,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        word_embed_proj_dim=WIDTH,
        **TEXT,
    )
    return padded(transformers.OPTForCausalLM(config))


def vit() -> Case:
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=8,
        patch_size=4,
        num_labels=5,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )
    inputs = {"pixel_values": torch.randn(BATCH, 3, 8, 8), "labels": torch.randint(5, (BATCH,))}
    return Case(transformers.ViTForImageClassification(config), own_loss, (inputs,))


def t5() -> Case:
    config = transformers.T5Config(
        d_model=WIDTH, d_kv=4, d_ff=24, num_layers=2, num_heads=4, decoder_start_token_id=0, **TEXT
    )
    return padded(transformers.T5ForConditionalGeneration(config))


def whisper() -> Case:
    config = transformers.WhisperConfig(
        num_mel_bins=6,
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_source_positions=10,
        max_target_positions=32,
        dropout=0.1,
        attention_dropout=0.1,
        decoder_start_token_id=0,
        apply_spec_augment=False,
        **TEXT,
    )
    model = transformers.WhisperForConditionalGeneration(config)
    return Case(model, own_loss, ({"input_features": torch.randn(BATCH, 6, 20), "labels": tokens()},))


MODELS = (gpt2, gpt2_padded, llama, llama_padded, qwen3, bert, roberta, opt, vit, t5, whisper)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.dtype.is_floating_point else x


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("kind", [Dense, RankOne], ids=["dense", "rank-one"])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_slopes_are_those_of_reverse_mode(net_agrees, build, train, kind, dtype):
    model, loss_fn, (inputs,) = build()
    model.config.use_cache = False
    assert model.config._attn_implementation == "sdpa"
    inputs = {name: cast(x, dtype) for name, x in inputs.items()}
    model = model.to(dtype).train(train)
    assert (loss_fn(model, inputs) != loss_fn(model, inputs)) == train  # dropout is at work
    net_agrees(model, loss_fn, inputs, k=2, kind=kind)
