"""Grouped products, which mixtures of experts are made of."""

from __future__ import annotations

import pytest
import torch

from forwardgrad.tangents.kinds import Dense, RankOne

pytestmark = pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="this PyTorch has no grouped product")
ENDS = torch.tensor([3, 3, 7], dtype=torch.int32)  # the second expert has no rows


@pytest.mark.parametrize("kind", [Dense, RankOne])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("moving", ["x", "w", "both"])
def test_rows_by_experts(agrees, moving, k, kind):
    params = {"x": torch.randn(7, 8), "w": torch.randn(3, 8, 4)}
    still = {name: p for name, p in params.items() if moving not in (name, "both")}
    params = {name: p for name, p in params.items() if name not in still}

    def f(p):
        p = {**still, **p}
        return torch._grouped_mm(p["x"], p["w"], offs=ENDS).tanh().sum()

    agrees(f, params, k, kind)


def test_a_mixture_of_experts(net_agrees):
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=37,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=3,
        pad_token_id=0,
    )
    model = transformers.MixtralForCausalLM(config)
    ids = torch.randint(3, 37, (2, 7))
    net_agrees(model, lambda m, x: m(input_ids=x, labels=x).loss, ids, strict=False)
