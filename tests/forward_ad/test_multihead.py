"""nn.MultiheadAttention and the stock Transformer layers: their Python is followed, their fast paths are not taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from forwardgrad.forward_ad import push_forward
from forwardgrad.forward_ad.composite import is_composite
from forwardgrad.module import ModuleObjective
from forwardgrad.tangents import Tangents
from forwardgrad.tangents.kinds import Dense, RankOne

KINDS = pytest.mark.parametrize("kind", [Dense, RankOne])
MODES = pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
OPTIONS = [
    {},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"kdim": 6, "vdim": 4},
    {"batch_first": False},
]


def spread(y: Tensor) -> Tensor:
    """A scalar that sees every entry differently."""
    return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum()


@DTYPES
@KINDS
@MODES
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_multihead(net_agrees, options, need_weights, train, kind, dtype):
    model = nn.MultiheadAttention(8, 2, dropout=0.2, dtype=dtype, **{"batch_first": True, **options}).train(train)
    q, k = torch.randn(3, 5, 8, dtype=dtype), torch.randn(3, 5, options.get("kdim", 8), dtype=dtype)
    v = torch.randn(3, 5, options.get("vdim", 8), dtype=dtype)
    inputs = (q, q, q) if "kdim" not in options else (q, k, v)

    def loss(model, *inputs):
        out, weights = model(*inputs, need_weights=need_weights)
        assert (weights is not None) == need_weights
        return 5 + spread(out) + (spread(weights) if need_weights else 0)

    net_agrees(model, loss, *inputs, kind=kind)


@pytest.mark.parametrize("need_weights", [False, True])
def test_masks(net_agrees, need_weights):
    model = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64).eval()
    x, y = torch.randn(3, 5, 8).double(), torch.randn(3, 4, 8).double()
    ahead = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    for options in (
        {"attn_mask": ahead, "is_causal": True},
        {"key_padding_mask": padding},
        {"attn_mask": ahead, "key_padding_mask": padding},
        {"attn_mask": torch.randn(6, 5, 5).double(), "average_attn_weights": False},
    ):
        net_agrees(model, lambda m, x, o=options: spread(m(x, x, x, need_weights=need_weights, **o)[0]), x)
    net_agrees(model, lambda m, x, y: spread(m(x, y, y, need_weights=need_weights)[0]), x, y)  # cross attention
    net_agrees(model, lambda m, x: spread(m(x[0], x[0], x[0], need_weights=need_weights)[0]), x)  # no batch


@DTYPES
@KINDS
@MODES
@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder(net_agrees, norm_first, train, kind, dtype):
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True, norm_first=norm_first, dtype=dtype)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).train(train)
    x, padding = torch.randn(3, 5, 8, dtype=dtype), torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    net_agrees(model, lambda m, x: spread(m(x)), x, kind=kind)
    # Rows of padding are zeros on stock's fast path (nested tensors) and not on its slow one: leave them out.
    net_agrees(model, lambda m, x: spread(m(x, src_key_padding_mask=padding)[~padding]), x, kind=kind)


@MODES
def test_whole_transformer(net_agrees, train):
    model = nn.Transformer(8, 2, 1, 1, 16, 0.2, batch_first=True, dtype=torch.float64).train(train)
    x, y = torch.randn(2, 5, 8).double(), torch.randn(2, 4, 8).double()
    mask = model.generate_square_subsequent_mask(4, dtype=torch.float64)
    net_agrees(model, lambda m, x, y: spread(m(x, y, tgt_mask=mask, tgt_is_causal=True)), x, y)


@pytest.mark.parametrize("moving", [0, 1])
def test_frozen_layers_before_and_after(net_agrees, moving):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dtype=torch.float64)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval().requires_grad_(False)
    model.layers[moving].requires_grad_(True)
    x, padding = torch.randn(3, 5, 8).double(), torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True

    def loss(m, x):
        return spread(m(x, src_key_padding_mask=padding)[~padding])

    net_agrees(model, loss, x)
    # Left alone, the frozen first layer would hand the second a nested tensor: stock's own backward fails there.
    objective = ModuleObjective(model, loss, x)
    v = Tangents({n: Dense(torch.randn(1, *p.shape).double()) for n, p in objective.params.items()})
    plain = objective.push(objective.params, v)
    model.enable_nested_tensor = model.use_nested_tensor = True
    assert torch.equal(objective.push(objective.params, v).slopes, plain.slopes)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("name", ["_native_multi_head_attention", "_transformer_encoder_layer_fwd"])
def test_fast_paths_are_not_taken(monkeypatch, name):
    def taken(*args, **kwargs):
        raise AssertionError("the fused kernel has no forward derivative")

    monkeypatch.setattr(torch, name, taken)
    x, params = torch.randn(2, 5, 8), {}
    for model in (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(),
        nn.MultiheadAttention(8, 2, batch_first=True).eval(),
    ):
        objective = ModuleObjective(model, lambda m, x: m(*([x] * (3 if hasattr(m, "num_heads") else 1)))[0].sum(), x)
        params = dict(objective.params)
        for only in (params, dict([params.popitem()])):  # all of them move, or one does
            objective.push(objective.params, Tangents({n: Dense(torch.randn(1, *p.shape)) for n, p in only.items()}))


def test_what_is_followed():
    assert is_composite(nn.functional.multi_head_attention_forward)
    assert is_composite(nn.functional.mse_loss)
    assert is_composite(Tensor.norm)
    assert not is_composite(torch.relu)
    assert not is_composite(nn.functional.gelu)  # built in
    assert not is_composite(lambda x: x)


def test_a_random_composite_draws_once(agrees):
    x = {"x": torch.randn(4, 6, dtype=torch.float64)}
    agrees(lambda p: spread(nn.functional.gumbel_softmax(p["x"], tau=0.5)), x)


def test_the_body_sees_what_was_written_into_plain_tensors():
    """Inside a composite function the mode stands again."""
    x, v = torch.randn(3), torch.randn(2, 3)
    pushed = push_forward(lambda x: nn.functional.gaussian_nll_loss(x, torch.zeros(3), torch.ones(3)), (x,), (v,))
    torch.testing.assert_close(pushed.slopes, (v * x).mean(1))
