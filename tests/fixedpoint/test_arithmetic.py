"""Shifts round as torch.round does, clamping is counted, and a net of integers agrees with its twin in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import InputError, NonFiniteError, UnsupportedError
from forwardgrad.fixedpoint.arithmetic import Saturation, saturated, shifted
from forwardgrad.fixedpoint.layers import FixedLinear

EXP = [round(2**14 * torch.tensor(-i / 64, dtype=torch.float64).exp().item()) for i in range(12 * 64 + 2)]
LOG = [round(2**14 * torch.tensor(i / 64, dtype=torch.float64).log1p().item()) for i in range(64 * 64)]


def conv():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Identity(),
        nn.Sequential(nn.Conv2d(4, 6, (2, 3), padding=(1, 0), bias=False), nn.AvgPool2d(2)),
        nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 12), nn.Linear(12, 5, bias=False))


def drawn(make, seed=0, batch=16):
    """A net with random weights, images and labels."""
    generator = Generator().manual_seed(seed)
    model = make()
    for p in model.parameters():
        nn.init.normal_(p, std=0.5, generator=generator)
    x = torch.randn(batch, 1, 8, 8, generator=generator)
    return model, x, torch.randint(5, (batch,), generator=generator)


def twin(net, model, q):
    """The same arithmetic in real numbers of double precision: every activation rounded to its grid by hand."""
    model = model.double()
    model.load_state_dict({name: w.double() for name, w in net.decoded().items()})
    outs = {
        layer.path: layer.out for layer in (getattr(one, "linear", one) for one in net.layers) if hasattr(layer, "path")
    }
    e, h = net.input_exponent, q.double() / 2.0**net.input_exponent
    row = [(n, m) for n, m in model.named_modules() if not isinstance(m, nn.Sequential | nn.Identity | nn.ReLU)]
    with torch.no_grad():
        for name, layer in row:
            h = layer(h)
            if isinstance(layer, nn.AvgPool2d):
                h = torch.round(h * 2.0**e) / 2.0**e
            elif isinstance(layer, nn.Linear | nn.Conv2d) and outs[name] is not None:
                e += net.exponents[f"{name}.weight"] + outs[name].places
                h = torch.round(h * 2.0**e).clamp(0 if outs[name].relu else -128, 127) / 2.0**e
    return h


def twin_loss(h, y):
    """Tables and straight lines in double precision."""
    read = lambda table, t: (
        (below := torch.tensor(table, dtype=torch.float64)[i := (t // 256).long()])
        + torch.round((torch.tensor(table, dtype=torch.float64)[i + 1] - below) * (t % 256) / 256)
    )
    z = torch.round(h * 2**14)
    d = z.amax(1, keepdim=True) - z
    total = read(EXP, d.clamp(max=12 * 2**14)).sum(1)
    return (read(LOG, total - 2**14) + d[torch.arange(len(y)), y]).sum()


@pytest.mark.parametrize("places", [-40, -31, -9, -2, -1, 0, 1, 7])
def test_a_shift_is_a_product_rounded_to_even(places):
    x = torch.cat(
        (torch.arange(-3000, 3000), torch.randint(-(2**22), 2**22, (2000,), generator=Generator().manual_seed(0)))
    )
    y = shifted(x.int(), places)
    assert y.dtype == torch.int32 and torch.equal(y.double(), torch.round(x.double() * 2.0**places))


def test_what_is_clamped_is_counted():
    seen = Saturation()
    x = torch.tensor([-400, -129, -128, 0, 127, 128, 9000], dtype=torch.int32)
    assert saturated(x, 8, seen, "a").tolist() == [-128, -128, -128, 0, 127, 127, 127]
    assert saturated(x, 8, seen, "relu", low=0).tolist() == [0, 0, 0, 0, 127, 127, 127]
    assert saturated(x, 16, seen, "a").tolist() == x.tolist()
    assert seen.counts() == {"a": 4, "relu": 2} and seen.rates() == {"a": 4 / 14, "relu": 2 / 7}
    seen.clear()
    assert seen.counts() == {}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("make", [conv, dense])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_net_agrees_exactly_with_its_twin_in_float64(make, seed, bits):
    model, x, y = drawn(make, seed)
    net = fg.quantise(model, x, weight_bits=bits)
    far = net.encode(3 * x)  # three times the range calibrated for: clamping must agree too
    for q in (net.encode(x), far):
        logits = net(q)
        assert logits.dtype == torch.int32
        h = twin(net, model, q)
        assert torch.equal(logits.double(), h * 2.0**net.output_exponent)
        loss = fg.IntegerCrossEntropy(5)(logits, net.output_exponent, y, Saturation())
        assert float(loss) == float(twin_loss(h, y))
    assert net.saturation.counts()["input"] > 0


@pytest.mark.parametrize("make", [conv, dense])
def test_a_net_computes_what_the_model_does_up_to_rounding(make):
    model, x, _ = drawn(make)
    errors = []
    for bits in (16, 8):
        net = fg.quantise(model, x, weight_bits=bits)
        with torch.no_grad():
            exact = model(x)
        errors.append(float((net(net.encode(x)) / 2.0**net.output_exponent - exact).norm() / exact.norm()))
        assert not any(net.saturation.counts().values())
    assert errors[0] < 0.04 and errors[0] < errors[1]


@pytest.mark.parametrize("classes", [2, 5, 40])
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_the_integer_loss_is_cross_entropy(classes, spread):
    generator = Generator().manual_seed(0)
    logits = (torch.randn(200, classes, generator=generator) * spread * 2**20).int()
    y = torch.randint(classes, (200,), generator=generator)
    loss, seen = fg.IntegerCrossEntropy(classes), Saturation()
    exact = F.cross_entropy(logits.double() / 2**20, y, reduction="none")
    found = torch.stack([loss(z[None], 20, label[None], seen) for z, label in zip(logits, y, strict=True)])
    bound = 2**-14 * (2 + classes) + 3.1e-5 * (1 + classes)
    assert float((found / 2**14 - exact).abs().max()) < bound
    assert int(loss(logits, 20, y, seen)) == int(found.sum()) and not any(seen.counts().values())


def test_logits_and_losses_out_of_range_are_counted():
    loss, seen = fg.IntegerCrossEntropy(2), Saturation()
    coarse = torch.tensor([[2**20, -(2**20)]] * 3, dtype=torch.int32)
    loss(coarse, 0, torch.tensor([1, 1, 0]), seen)
    assert seen.counts() == {"logits": 6, "loss": 2}


def test_rows_that_could_overflow_are_counted_and_none_is_missed():
    """The bound is that of the worst input: with it the sum is within 32 bits or the row is counted."""
    for width in (100, 511, 513, 2000):
        layer, seen = FixedLinear("a", None, None), Saturation()
        weights = {"a.weight": torch.full((1, width), -(2**15), dtype=torch.int16)}
        layer(torch.full((1, width), -128, dtype=torch.int8), weights, seen)
        fits = width * 2**15 * 128 <= 2**31 - 1
        assert bool(seen.counts()["a accumulator"]) == (not fits)


def test_frozen_parameters_and_zeros_are_kept():
    model, x, _ = drawn(dense)
    model[1].weight.requires_grad_(False)
    nn.init.zeros_(model[1].bias)
    net = fg.quantise(model, x)
    assert set(net.weights) == {name for name, _ in model.named_parameters()}
    assert set(net.trained) == set(net.weights) - {"1.weight"}
    for name, p in model.named_parameters():
        assert float((net.decoded()[name] - p.detach()).abs().max()) <= 2.0 ** -(net.exponents[name] + 1)


def layered(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5))


def full(value):
    linear = nn.Linear(64, 5)
    nn.init.constant_(linear.bias, value)
    return nn.Sequential(nn.Flatten(), linear)


SHARED = nn.Linear(64, 64)
REFUSED = [
    (lambda: nn.Linear(64, 5), UnsupportedError, "needs an nn.Sequential"),
    (lambda: nn.Sequential(), InputError, "an empty row"),
    (lambda: nn.Sequential(nn.Flatten()), InputError, "end in an nn.Linear"),
    (lambda: layered(nn.BatchNorm2d(1)), UnsupportedError, "fuse_conv_bn_eval"),
    (lambda: layered(nn.ReLU()), UnsupportedError, "right behind"),
    (lambda: layered(nn.MaxPool2d(1)), UnsupportedError, "use nn.AvgPool2d"),
    (lambda: layered(nn.GELU()), UnsupportedError, "use Linear, Conv2d, ReLU"),
    (lambda: layered(nn.Flatten(2)), UnsupportedError, r"nn\.Flatten\(\)"),
    (lambda: layered(nn.AvgPool2d(3)), UnsupportedError, "a power of two"),
    (lambda: layered(nn.AvgPool2d(2, 1)), UnsupportedError, "side by side"),
    (lambda: layered(nn.Conv2d(1, 1, 3, padding="same")), UnsupportedError, "given in numbers"),
    (lambda: layered(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")), UnsupportedError, "plain convolutions"),
    (lambda: nn.Sequential(nn.Flatten(), SHARED, nn.ReLU(), SHARED, nn.Linear(64, 5)), UnsupportedError, "used twice"),
    (lambda: full(float("nan")), NonFiniteError, "1.bias"),
    (lambda: full(1e6), InputError, "scale the layer's inputs up"),
    (lambda: nn.Sequential(nn.Flatten(), Ones(64, 4096), nn.ReLU(), Ones(4096, 5)), InputError, "raise headroom"),
]  # fmt: skip


class Ones(nn.Linear):
    def reset_parameters(self):
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)


@pytest.mark.parametrize(("make", "error", "sentence"), REFUSED, ids=[case[2] for case in REFUSED])
def test_what_has_no_integer_form_is_refused(make, error, sentence):
    with pytest.raises(error, match=sentence):
        fg.quantise(make(), torch.ones(4, 1, 8, 8))


def test_bad_arguments_are_refused():
    model, x, y = drawn(dense)
    for bad, sentence in [
        ({"weight_bits": 4}, "16 or 8 bits"),
        ({"headroom": -1}, "headroom"),
        ({"headroom": 15}, "0 to 14"),
    ]:
        with pytest.raises(InputError, match=sentence):
            fg.quantise(model, x, **bad)
    for bad in (x.int(), x[:0], x[0, 0, 0]):
        with pytest.raises(InputError, match="a batch of floats"):
            fg.quantise(model, bad)
    with pytest.raises(NonFiniteError, match="`x`"):
        fg.quantise(model, x / 0)
    net = fg.quantise(model, x)
    with pytest.raises(InputError, match=r"net\.encode"):
        net(x)
    with pytest.raises(NonFiniteError, match="look at the batch"):
        net.encode(x * float("nan"))
    with pytest.raises(InputError, match="2 to 16384"):
        fg.IntegerCrossEntropy(1)
    with pytest.raises(InputError, match=r"logits \[B, 4\]"):
        fg.IntegerCrossEntropy(4)(net(net.encode(x)), 20, y, Saturation())
    with pytest.raises(InputError, match=r"2\^4 or finer"):
        fg.IntegerCrossEntropy(5)(net(net.encode(x)), -5, y, Saturation())
