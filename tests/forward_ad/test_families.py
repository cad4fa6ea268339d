"""Families of Hugging Face's language models, unmodified: slopes against reverse mode, and no operation without a rule.

`test_models.py` looks closely at a few; this looks once at many, each as small as its configuration can be made.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import forwardgrad as fg
from forwardgrad.diagnosis import traced
from forwardgrad.tangents import Key, RankOneRademacher

transformers = pytest.importorskip("transformers")

FAMILIES = [
    "bloom", "codegen", "cohere", "deepseek_v3", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text",
    "glm", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_oss", "gptj", "granite", "helium", "lfm2", "llama", "mamba",
    "mistral", "mixtral", "nemotron", "olmo", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3",
    "stablelm", "starcoder2",
]  # fmt: skip

# Each family's names for the same few sizes; what a configuration does not have is left out.
SIZES: dict[str, Any] = {
    "vocab_size": 61, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_size": 32, "n_embd": 32, "hidden_dim": 32, "word_embed_proj_dim": 32,
    "intermediate_size": 48, "n_inner": 48, "ffn_dim": 48, "moe_intermediate_size": 16,
    "num_hidden_layers": 2, "n_layer": 2, "num_layers": 2, "attention_types": [[["global"], 2]],
    "num_attention_heads": 4, "n_head": 4, "num_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "rotary_dim": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "max_position_embeddings": 32, "n_positions": 32, "n_ctx": 32,
    "q_lora_rank": 8, "kv_lora_rank": 8, "state_size": 4, "time_step_rank": 4,
    "num_local_experts": 2, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip


def small(family: str) -> nn.Module:
    config = transformers.AutoConfig.for_model(family)
    for name, size in SIZES.items():
        if hasattr(config, name) and not isinstance(getattr(type(config), name, None), property):
            setattr(config, name, size)
    if family == "deepseek_v3":
        config.num_key_value_heads = 4
    if config.__dict__.get("layer_types"):  # one of each kind
        config.layer_types = [config.layer_types[0], config.layer_types[-1]]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_slopes(family: str) -> None:
    model = small(family)
    tokens = torch.randint(3, 61, (2, 9))
    objective = fg.ModuleObjective(model, lambda m, x: m(input_ids=x, labels=x).loss, tokens)
    v = RankOneRademacher()(objective.params, 2, Key(0, 0))
    with torch.no_grad():
        pushed = traced(objective, v)
    loss = objective.loss_fn(model, tokens)
    grads = torch.autograd.grad(loss, list(objective.params.values()), allow_unused=True)
    reached = {n: g for n, g in zip(objective.params, grads, strict=True) if g is not None}
    expected = sum((v[n].dense() * g).flatten(1).sum(1) for n, g in reached.items())
    length = sum(g.square().sum() for g in reached.values()).sqrt()
    torch.testing.assert_close(pushed.value, loss.detach(), rtol=1e-5, atol=1e-5)
    assert float((pushed.slopes - expected).abs().max() / length) < 1e-4
    assert pushed.reached == reached.keys()
    assert not pushed.trace.fallbacks
