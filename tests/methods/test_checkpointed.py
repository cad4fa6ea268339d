"""CheckpointedBackprop: the same gradient, less tape, and with fusion no gradient either."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import RungError
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.methods import Backprop, CheckpointedBackprop
from forwardgrad.methods.checkpointed import blocks
from forwardgrad.probes import tape_bytes
from forwardgrad.testing import net, tower

BOTH = pytest.mark.parametrize("fused", [False, True])


@BOTH
@pytest.mark.parametrize("problem", [tower(), net(dropout=0.3)], ids=["tower", "net"])
def test_it_is_backprop(problem, fused):
    """Dropout masks are replayed and batch statistics taken once, although each block runs twice."""
    seen = []
    for method in (Backprop(), CheckpointedBackprop(fused)):
        model, loss_fn, *batch = copy.deepcopy(problem).arguments
        torch.manual_seed(3)
        fg.backward(method, model, loss_fn, *batch)
        seen.append(([p.grad for p in model.parameters()], list(model.buffers()), torch.get_rng_state()))
    for a, b in zip(*(grads for grads, _, _ in seen), strict=True):
        assert (a is None) is (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)
    for a, b in zip(*(buffers for _, buffers, _ in seen), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(seen[0][2], seen[1][2])


@BOTH
def test_tied_weights_across_blocks(fused):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)))
    model[2][0].weight = model[0][0].weight
    x = torch.randn(3, 4)
    calls = []
    sink = lambda name, parameter, grad: calls.append((name, grad.clone()))
    fg.backward(CheckpointedBackprop(fused), model, lambda m, x: m(x).square().mean(), x, into=sink)
    model(x).square().mean().backward()
    assert sorted(name for name, _ in calls) == sorted(dict(model.named_parameters()))
    for name, grad in calls:
        torch.testing.assert_close(grad, model.get_parameter(name).grad)


def test_blocks_are_the_members_of_the_outermost_containers():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(3))
            self.norm = nn.LayerNorm(4)
            self.head = nn.Sequential(nn.Linear(4, 5))

    model = Decoder()
    assert blocks(model) == list(model.layers)
    flat = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    assert blocks(flat) == [flat]


def test_a_row_of_single_layers_keeps_about_the_root_of_its_activations():
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(18) for layer in (nn.Linear(32, 32), nn.ReLU())))
    x = torch.randn(256, 32)

    def peak(method):
        return fg.measure(method, model, lambda m, x: m(x).square().mean(), x, repeats=1).peak_bytes

    assert peak(fg.CheckpointedBackprop()) < 0.6 * peak(fg.Backprop())


@BOTH
def test_one_block_used_several_times(fused):
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model, x = nn.Sequential(block, block, nn.Linear(4, 4), block), torch.randn(3, 4)
    assert blocks(model) == [block, model[2]]
    fg.backward(CheckpointedBackprop(fused), model, lambda m, x: m(x).square().mean(), x)
    seen = [p.grad.clone() for p in model.parameters()]
    assert "forward" not in block.__dict__
    model.zero_grad()
    model(x).square().mean().backward()
    for a, p in zip(seen, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


@BOTH
def test_the_blocks_get_their_forward_back(fused):
    model, loss_fn, *batch = tower().arguments
    own = lambda x: x + 1
    model[0].forward = own
    before = [dict(m.__dict__) for m in model.modules()]
    fg.backward(CheckpointedBackprop(fused), model, loss_fn, *batch)
    with pytest.raises(KeyboardInterrupt):
        fg.backward(CheckpointedBackprop(fused), model, lambda m, *b: (_ for _ in ()).throw(KeyboardInterrupt), *batch)
    assert [dict(m.__dict__) for m in model.modules()] == before and model[0].forward is own


def test_the_tape_holds_the_inputs_of_the_blocks():
    """Per layer of the tower one activation instead of two (a linear layer's input and a tanh's output)."""
    model, loss_fn, *batch = tower(layers=12).arguments
    offered = []
    for method in (Backprop(), CheckpointedBackprop()):
        with tape_bytes(model) as count:
            fg.backward(method, model, loss_fn, *batch, into=fg.Collect())
        offered.append(count())
    with PeakBytes() as plain:
        fg.backward(Backprop(), model, loss_fn, *batch, into=fg.Collect())
    with PeakBytes() as ours:
        fg.backward(CheckpointedBackprop(), model, loss_fn, *batch, into=fg.Collect())
    assert ours.peak <= plain.peak and min(offered) > 0


def test_fused_with_a_sink_that_applies_no_two_gradients_are_alive_at_once():
    width, layers = 64, 16
    model, loss_fn, *batch = tower(layers, width, rows=2).arguments
    weight = 4 * width * width

    def peak(method):
        with PeakBytes() as memory:
            fg.backward(method, model, loss_fn, *batch, into=fg.Apply(lambda p: torch.optim.SGD(p, lr=1e-3)))
        return memory.peak

    assert peak(Backprop()) > layers * weight
    assert peak(CheckpointedBackprop()) > layers * weight
    assert peak(CheckpointedBackprop(fused=True)) < 4 * weight


def test_fused_steps_are_the_steps_of_an_optimizer_afterwards():
    trained = []
    for fused in (False, True):
        model, loss_fn, *batch = tower().arguments
        if fused:
            sink = fg.Apply(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
            for _ in range(3):
                fg.backward(CheckpointedBackprop(fused=True), model, loss_fn, *batch, into=sink)
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            for _ in range(3):
                optimizer.zero_grad()
                fg.backward(CheckpointedBackprop(), model, loss_fn, *batch)
                optimizer.step()
        trained.append(list(model.parameters()))
    for a, b in zip(*trained, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_of_parameters_not_chosen_are_left_alone():
    model, loss_fn, *batch = tower(3).arguments
    fg.backward(CheckpointedBackprop(), model, loss_fn, *batch, params=["1.0.weight"])
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["1.0.weight"]


def test_a_function_has_no_blocks():
    with pytest.raises(RungError, match="needs the blocks of a model; found function"):
        CheckpointedBackprop()(lambda p: p["x"].sum(), {"x": torch.zeros(2)})


def test_keyword_arguments_reach_the_blocks():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x, *, factor):
            return self.linear(x) * factor

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Scaled() for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x, factor=0.5)
            return x

    model, x = Stack(), torch.randn(3, 4)
    fg.backward(CheckpointedBackprop(), model, lambda m, x: F.mse_loss(m(x), x), x)
    seen = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    F.mse_loss(model(x), x).backward()
    for a, p in zip(seen, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)
