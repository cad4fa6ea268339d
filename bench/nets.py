"""The nets of the benchmark. FROZEN: a change here makes every earlier record incomparable.

Each function builds its net from a seed and returns (model, loss_fn, batch), with batch a tuple, so that
`loss_fn(model, *batch)` is the loss. Parameters are random, float32, on the CPU.

The transformers are stock classes with random configurations: 4 layers, d = 384, 6 heads, a batch of 8 x 128.
Their vocabulary is 8,192 and not the usual 30,000 to 128,000: with 4 layers of d = 384 the output projection
would otherwise be most of the work, and the benchmark would time one matrix product. They are in eval mode
(dropout off), with the key/value cache off, which would make even the forward pass hold every layer's keys.
Attention is left on PyTorch's default.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, WIDTH, DEPTH, HEADS, BATCH, TOKENS = 8192, 384, 4, 6, 8, 128


class Net(NamedTuple):
    model: nn.Module
    loss_fn: Callable[..., Tensor]
    batch: tuple[Tensor, ...]


def language_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """The model's own loss, every token a label (shifted by one inside causal models)."""
    return model(input_ids=tokens, labels=tokens).loss


def label_loss(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(x), labels)


def _tokens() -> tuple[Tensor]:
    return (torch.randint(VOCABULARY, (BATCH, TOKENS)),)


def gpt2() -> Net:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=TOKENS,
        n_embd=WIDTH,
        n_layer=DEPTH,
        n_head=HEADS,
        use_cache=False,
        bos_token_id=None,  # the stock ones lie outside this vocabulary
        eos_token_id=None,
    )
    return Net(GPT2LMHeadModel(config).eval(), language_loss, _tokens())


def llama(
    depth: int = DEPTH,
    width: int = WIDTH,
    batch: int = BATCH,
    tokens: int = TOKENS,
    vocabulary: int = VOCABULARY,
) -> Net:
    """Grouped-query attention: 6 heads share 2 key/value heads; the inner width is 8/3 of the outer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=depth,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 192),
        max_position_embeddings=tokens,
        use_cache=False,
    )
    batched = torch.randint(vocabulary, (batch, tokens))
    return Net(LlamaForCausalLM(config).eval(), language_loss, (batched,))


def bert() -> Net:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=TOKENS,
        pad_token_id=None,  # no padding row, so that every rival perturbs the same entries
    )
    return Net(BertForMaskedLM(config).eval(), language_loss, _tokens())


def lora() -> Net:
    """The Llama above, frozen, with rank-8 adapters on every projection; B is random: A has a gradient."""
    from peft import LoraConfig, get_peft_model

    model, loss_fn, batch = llama()
    config = LoraConfig(r=8, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    return Net(get_peft_model(model, config).eval(), loss_fn, batch)


def _perceptron(widths: tuple[int, ...], rows: int) -> Net:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, (inner, outer) in enumerate(pairwise(widths)):
        layers += [nn.ReLU()] * (i > 0) + [nn.Linear(inner, outer)]
    batch = torch.randn(rows, widths[0]), torch.randint(widths[-1], (rows,))
    return Net(nn.Sequential(*layers), label_loss, batch)


def mlp() -> Net:
    """Four hidden layers of 1024."""
    return _perceptron((1024, 1024, 1024, 1024, 1024, 10), rows=256)


def tiny() -> Net:
    """Two hidden layers of 64, the size of the digits."""
    return _perceptron((64, 64, 64, 10), rows=32)


class _Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut, as in ResNet-18."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            conv = nn.Conv2d(inner, outer, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet() -> Net:
    """ResNet-18 with the stem of small images: widths 64 to 512, two blocks each, 32 x 32, train mode."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inner = 64
    for outer, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [_Block(inner, outer, stride), _Block(outer, outer, 1)]
        inner = outer
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    batch = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    return Net(nn.Sequential(*layers).train(), label_loss, batch)


NETS: dict[str, Callable[[], Net]] = {
    "gpt2": gpt2,
    "llama": llama,
    "bert": bert,
    "lora": lora,
    "mlp": mlp,
    "resnet": resnet,
    "tiny": tiny,
}
