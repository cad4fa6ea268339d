"""Counts against PyTorch's own counter where it counts everything, and by hand where it does not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from forwardgrad.flops import Flops, count_flops


def test_agrees_with_pytorch_on_a_net_and_its_gradient() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10))
    x = torch.randn(4, 3, 8, 8)
    for work in (lambda: net(x), lambda: net(x).sum().backward()):
        with FlopCounterMode(display=False) as theirs:
            work()
        assert count_flops(work).products == theirs.get_total_flops()


def _attention(grad: bool, heads: int = 4) -> Flops:
    q = torch.randn(2, 4, 16, 8, requires_grad=grad)
    k, v = (torch.randn(2, heads, 24, 8, requires_grad=grad) for _ in range(2))

    def work() -> None:
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != 4)
        if grad:
            out.sum().backward()

    return count_flops(work)


@pytest.mark.parametrize("heads", [4, 2])
def test_fused_attention_on_the_cpu_costs_what_the_plain_one_does(heads: int) -> None:
    fused = _attention(grad=False, heads=heads)
    with sdpa_kernel(SDPBackend.MATH):
        plain = _attention(grad=False, heads=heads)
    assert fused.products == plain.products == 2 * 2 * (2 * 4 * 16 * 24 * 8)


def test_backward_of_fused_attention_computes_the_scores_again() -> None:
    fused = _attention(grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        plain = _attention(grad=True)
    assert fused.products - plain.products == 2 * (2 * 4 * 16 * 24 * 8)


def test_products_with_a_vector_by_hand() -> None:
    a, x, y = torch.randn(3, 5), torch.randn(5), torch.randn(3)
    assert count_flops(lambda: a @ x).products == 30
    assert count_flops(lambda: torch.addmv(y, a, x)).products == 30
    assert count_flops(lambda: x @ x).products == 10
    assert count_flops(lambda: a.clone().addr_(y, x)).products == 30
    assert count_flops(lambda: torch.zeros(3, 2).addmm_(a, torch.randn(5, 2))).products == 60


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch's own, from switching oneDNN off
def test_recurrent_layer_by_hand() -> None:
    net, x = nn.LSTM(6, 8, num_layers=2), torch.randn(5, 3, 6)
    by_hand = 2 * 5 * 3 * sum(w.numel() for w in net.parameters() if w.dim() == 2)
    with torch.no_grad():
        assert count_flops(lambda: net(x)).products == by_hand
        with torch.backends.mkldnn.flags(enabled=False):
            assert count_flops(lambda: net(x)).products == by_hand


def test_fused_encoder_layer_is_counted_and_its_switch_restored() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.randn(2, 4, 16)
    before = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        counted = count_flops(lambda: layer(x)).products
    projections = 2 * 2 * 4 * (4 * 16 * 16 + 2 * 16 * 32)
    assert counted == projections + 2 * 2 * (2 * 2 * 4 * 4 * 8)
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_inference_mode_hides_nothing() -> None:
    net, x = nn.Linear(4, 3), torch.randn(2, 4)
    with torch.inference_mode():
        assert count_flops(lambda: net(x)).products == 2 * 2 * 4 * 3


def test_elements_decide_only_without_products() -> None:
    x = torch.randn(8)
    square = count_flops(lambda: (x.view(2, 4) * 2).sum())
    assert square == Flops(products=0, elements=9)  # eight products, one sum; the view computes nothing
    assert Flops(0, 18).over(square) == 2.0
    assert Flops(6, 100).over(Flops(2, 1)) == 3.0
    assert torch.isnan(torch.tensor(Flops(1, 1).over(Flops(0, 0))))


class _Recorded(Tensor):
    """A subclass that overrides functions, not dispatch."""


def test_under_torch_function_subclasses() -> None:
    x = torch.randn(3, 4).as_subclass(_Recorded)
    assert count_flops(lambda: x @ torch.randn(4, 2)).products == 2 * 3 * 4 * 2
