"""Dropout and its kin: one mask, the very mask that stock draws under the same seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forwardgrad.forward_ad import push_forward

TANGENTS = pytest.mark.parametrize("k", [1, 3])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])

FAMILY = {
    "dropout": ((3, 5, 4), lambda x, **o: F.dropout(x, 0.3, **o)),
    "dropout of everything": ((3, 5), lambda x, **o: F.dropout(x, 1.0, **o) + x),
    "dropout1d": ((3, 5, 4), lambda x, **o: F.dropout1d(x, 0.3, **o)),
    "dropout1d of one sample": ((5, 4), lambda x, **o: F.dropout1d(x, 0.3, **o)),
    "dropout2d": ((3, 5, 4, 2), lambda x, **o: F.dropout2d(x, 0.3, **o)),
    "dropout3d": ((3, 5, 2, 4, 2), lambda x, **o: F.dropout3d(x, 0.3, **o)),
    "dropout3d of one sample": ((5, 2, 4, 2), lambda x, **o: F.dropout3d(x, 0.3, **o)),
    "alpha_dropout": ((3, 5, 4), lambda x, **o: F.alpha_dropout(x, 0.3, **o)),
    "feature_alpha_dropout": ((3, 5, 4), lambda x, **o: F.feature_alpha_dropout(x, 0.3, **o)),
    "rrelu": ((3, 5, 4), lambda x, **o: F.rrelu(x, 0.1, 0.4, **o)),
}


def spread(y: Tensor) -> Tensor:
    return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum()


@DTYPES
@TANGENTS
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FAMILY)
def test_family(agrees, name, training, inplace, k, dtype):
    shape, f = FAMILY[name]

    def loss(p):
        x = p["x"] * 2
        y = f(x, training=training, inplace=inplace)
        return spread(y) + spread(x.square())  # in place, x is y by now

    agrees(loss, {"x": torch.randn(shape, dtype=dtype)}, k)


@pytest.mark.parametrize("name", FAMILY)
def test_the_mask_is_stock_s_bit_for_bit(name):
    shape, f = FAMILY[name]
    x = torch.randn(shape).transpose(0, 1).contiguous().transpose(0, 1)
    torch.manual_seed(3)
    stock = f(x, training=True)
    after = torch.rand(())
    torch.manual_seed(3)
    pushed = push_forward(lambda p: f(p["x"], training=True), {"x": x}, {"x": torch.ones(2, *shape)})
    assert torch.equal(pushed.value, stock)
    assert torch.equal(torch.rand(()), after)


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.5), nn.Dropout2d(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5)], ids=str
)
def test_nothing_happens_in_evaluation_or_with_p_0(layer):
    def loss(p):
        assert layer.eval()(p["x"]) is p["x"]
        assert type(layer)(0.0).train()(p["x"]) is p["x"]
        return p["x"].sum()

    push_forward(loss, {"x": torch.randn(2, 3, 4, 4)}, {"x": torch.randn(2, 2, 3, 4, 4)})


@TANGENTS
@pytest.mark.parametrize("train", [True, False])
def test_native_dropout(agrees, train, k):
    def loss(p):
        y, mask = torch.native_dropout(p["x"], 0.4, train)
        return spread(y) + 0 * mask.sum()

    agrees(loss, {"x": torch.randn(3, 5, dtype=torch.float64)}, k)


@TANGENTS
@pytest.mark.parametrize(
    "f",
    [
        torch.dropout,
        torch.feature_dropout,
        torch.alpha_dropout,
        torch.feature_alpha_dropout,
        torch.dropout_,
        torch.alpha_dropout_,
    ],
    ids=lambda f: f.__name__,
)
def test_plain_functions(agrees, f, k):
    agrees(lambda p: spread(f(p["x"] + 1, 0.4, True)), {"x": torch.randn(3, 5, 4, dtype=torch.float64)}, k)


def test_a_wrong_probability_is_refused_as_stock_does():
    with pytest.raises(ValueError, match="between 0 and 1"):
        push_forward(lambda p: F.dropout(p["x"], 1.5), {"x": torch.ones(3)}, {"x": torch.ones(1, 3)})
    with pytest.raises(RuntimeError, match="at least 2 dimensions"):
        push_forward(lambda p: torch.feature_dropout(p["x"], 0.5, True), {"x": torch.ones(3)}, {"x": torch.ones(1, 3)})
