"""Whole nets of stock modules, in training and in evaluation, against reverse mode under the same seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from forwardgrad.tangents.kinds import Dense, RankOne

KINDS = pytest.mark.parametrize("kind", [Dense, RankOne])
TANGENTS = pytest.mark.parametrize("k", [1, 3])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def label_loss(model: nn.Module, *batch: Tensor) -> Tensor:
    return F.cross_entropy(model(*batch[:-1]), batch[-1])


class Residual(nn.Module):
    """Two convolutions with BatchNorm and a shortcut, as in ResNet-18, with ReLUs in place."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(inplace=True),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
        self.last = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += self.shortcut(x)
        return self.last(y)


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 7, 2, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        Residual(6, 6, 1),
        Residual(6, 8, 2),
        nn.Dropout2d(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2, inplace=True),
        nn.Linear(8, 5),
    )


@DTYPES
@KINDS
@TANGENTS
@MODES
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_resnet(net_agrees, layout, training, k, kind, dtype):
    model = resnet().to(dtype).train(training).to(memory_format=layout)
    x = torch.randn(4, 3, 20, 20, dtype=dtype).to(memory_format=layout)
    net_agrees(model, label_loss, x, torch.randint(5, (4,)), k=k, kind=kind)


class UNet(nn.Module):
    """Down, and up again beside what was seen on the way down."""

    def __init__(self, up: str) -> None:
        super().__init__()
        self.up = up
        self.down = nn.ModuleList([self.block(2, 4), self.block(4, 6)])
        self.bottom = self.block(6, 8)
        self.wider = nn.ConvTranspose2d(8, 6, 2, 2)
        self.narrow = nn.ModuleList([self.block(12 if up == "transposed" else 14, 6), self.block(10, 4)])
        self.last = nn.Conv2d(4, 2, 1)

    @staticmethod
    def block(inner: int, outer: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inner, outer, 3, padding=1, padding_mode="reflect"),
            nn.GroupNorm(2, outer),
            nn.SiLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(outer, outer, 3, padding="same", groups=2),
            nn.InstanceNorm2d(outer, affine=True),
            nn.LeakyReLU(0.1, inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for block in self.down:
            x = block(x)
            seen.append(x)
            x = F.avg_pool2d(x, 2) if self.up == "transposed" else F.max_pool2d(x, 2)
        x = self.bottom(x)
        for i, block in enumerate(self.narrow):
            if self.up == "transposed" and i == 0:
                x = self.wider(x)
            else:
                x = F.interpolate(x, size=seen[-1 - i].shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([seen[-1 - i], x], 1))
        return self.last(x)


@DTYPES
@KINDS
@TANGENTS
@MODES
@pytest.mark.parametrize("up", ["transposed", "interpolated"])
def test_unet(net_agrees, up, training, k, kind, dtype):
    model = UNet(up).to(dtype).train(training)
    x, target = torch.randn(2, 2, 12, 12, dtype=dtype), torch.randn(2, 2, 12, 12, dtype=dtype)
    net_agrees(model, lambda m, x, t: F.mse_loss(m(x), t), x, target, k=k, kind=kind)


class Reader(nn.Module):
    """Tokens through a recurrent layer, packed or not, to a label."""

    def __init__(self, layer: type[nn.RNNBase], packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.tokens = nn.Embedding(11, 6, padding_idx=0)
        self.layer = layer(6, 5, num_layers=2, bidirectional=True, dropout=0.3, batch_first=True)
        self.last = nn.Sequential(nn.LayerNorm(10), nn.Dropout(0.3), nn.Linear(10, 4))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        x = self.tokens(tokens)
        if self.packed:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, state = self.layer(x)
        h = state[0] if isinstance(state, tuple) else state
        return self.last(torch.cat([h[-2], h[-1]], -1))


@DTYPES
@KINDS
@TANGENTS
@MODES
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_classifier(net_agrees, layer, packed, training, k, kind, dtype):
    model = Reader(layer, packed).to(dtype).train(training)
    tokens, lengths = torch.randint(1, 11, (4, 7)), torch.tensor([7, 3, 5, 1])
    tokens[torch.arange(7) >= lengths[:, None]] = 0
    net_agrees(model, label_loss, tokens, lengths, torch.randint(4, (4,)), k=k, kind=kind)


@DTYPES
@KINDS
@TANGENTS
@MODES
@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_encoder(net_agrees, norm_first, training, k, kind, dtype):
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.2, activation="gelu", batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False).to(dtype).train(training)
    padded = torch.arange(5) >= torch.tensor([[5], [3], [4]])

    def loss(m: nn.Module, x: Tensor) -> Tensor:
        return (m(x, src_key_padding_mask=padded) * ~padded[..., None]).square().mean() + m(x)[:, 0].sum()

    net_agrees(model, loss, torch.randn(3, 5, 8, dtype=dtype), k=k, kind=kind)


@DTYPES
@KINDS
@TANGENTS
@MODES
def test_patches_and_frames(net_agrees, training, k, kind, dtype):
    """The convolutions with which a ViT and a Whisper begin."""

    class Begin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.place = nn.Parameter(torch.randn(1, 5, 8))
            self.first = nn.Parameter(torch.randn(1, 1, 8))
            self.frames = nn.Sequential(nn.Conv1d(6, 8, 3, padding=1), nn.GELU(), nn.Conv1d(8, 8, 3, 2, 1), nn.GELU())
            self.norm = nn.LayerNorm(8)

        def forward(self, image: Tensor, sound: Tensor) -> Tensor:
            x = self.patches(image).flatten(2).transpose(1, 2)
            x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.place
            y = self.frames(sound).permute(0, 2, 1)
            return self.norm(F.dropout(torch.cat([x, y], 1), 0.1, self.training))

    model = Begin().to(dtype).train(training)
    batch = torch.randn(2, 3, 8, 8, dtype=dtype), torch.randn(2, 6, 10, dtype=dtype)
    net_agrees(model, lambda m, *b: m(*b).tanh().square().mean(), *batch, k=k, kind=kind)


def test_mobile_net_like(net_agrees):
    """Depthwise convolutions, gates and clipped activations; those without a rule fall back, and are right."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            s = F.adaptive_avg_pool2d(x, 1)
            return x * F.hardsigmoid(self.up(F.relu(self.down(s), inplace=True)), inplace=True)

    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6(inplace=True),
        nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False), nn.BatchNorm2d(6), nn.Hardswish(inplace=True), Gate(),
        nn.Conv2d(6, 4, 1), nn.PReLU(4), nn.Flatten(), nn.Linear(4 * 64, 3),
    ).double()  # fmt: skip
    net_agrees(model, label_loss, torch.randn(2, 3, 16, 16).double(), torch.randint(3, (2,)), strict=False)
