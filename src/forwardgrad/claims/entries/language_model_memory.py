"""How much forward-mode tuning of adapters saves on large language models: small ones of their shape, and a formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.errors import InputError
from forwardgrad.estimate import Method
from forwardgrad.forward_ad.peak import PeakBytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord

_HEAD = 128  # width of an attention head in both models
_CARD = 75e9  # bytes that a card of 80 GB shows


@dataclass(frozen=True)
class Shape:
    """A published model: width, layers, tokens of a text, parameters, and the published peaks in GB.

    The length of OPT's texts is that of the paper's code for SQuAD. For Llama's the code has no figure: 256 is ours.
    """

    width: int
    layers: int
    tokens: int
    parameters: float
    backprop: float
    forward: float


MODELS: Mapping[str, Shape] = {
    "llama": Shape(4096, 32, 256, 6.74e9, 33.9, 6.2),
    "opt": Shape(5120, 40, 384, 12.85e9, 76.5, 10.8),
}


@dataclass(frozen=True)
class Setting:
    """Two widths and two depths, texts of the published length, one at a time; then a larger net to try the formula on.

    Args:
        widths: multiples of 128, for the formula.
        depths: for the formula.
        held: by model, width, depth and texts of the net that the formula did not see.
        batch: texts of a published step.
        device: where it runs.
    """

    widths: tuple[int, int]
    depths: tuple[int, int]
    held: tuple[tuple[str, int, int, int], ...]
    batch: int = 8
    device: str = "cpu"


WAYS: Mapping[str, Callable[[], Method]] = {
    "backprop": fg.Backprop,
    "checkpointed": fg.CheckpointedBackprop,
    "fused": lambda: fg.CheckpointedBackprop(fused=True),
    "forward": fg.ForwardGradient,
}


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Peaks above the weights of one step; the formula through four of them; how it meets the fifth; where it leads.

    A text of given length asks for peak(d, L) = a + b d + c L + e d L bytes, since all that a layer makes is as wide
    as the stream or as its attention scores, whose heads are d/128; a batch asks for as many times that.
    """
    _roomy(setting.device)
    figures: dict[str, float] = {}
    series: dict[str, list[float]] = {}
    for name, shape in MODELS.items():
        known: dict[str, list[float]] = {way: [] for way in WAYS}
        for width, layers in product(setting.widths, setting.depths):
            tell(f"{name}, {layers} layers of {width}")
            for way, bytes_held in peaks(name, width, layers, 1, setting.device, seed).items():
                known[way].append(bytes_held)
        ((_, width, layers, batch),) = (held for held in setting.held if held[0] == name)
        tell(f"{name}, {layers} layers of {width}, {batch} texts")
        seen = peaks(name, width, layers, batch, setting.device, seed)
        weights = shape.parameters / 2  # four bits each, as published
        for way, values in known.items():
            formula = bilinear(setting, values)
            figures[f"{name}_{way}_off"] = abs(batch * formula(width, layers) / seen[way] - 1)
            above = setting.batch * formula(shape.width, shape.layers)
            figures[f"{name}_{way}_gb"] = (weights + above) / 1e9
            series[f"{name}_{way}"] = [*values, seen[way], above]
        figures[f"{name}_saving"] = figures[f"{name}_backprop_gb"] / figures[f"{name}_forward_gb"]
        figures[f"{name}_fused_over_forward"] = figures[f"{name}_fused_gb"] / figures[f"{name}_forward_gb"]
    figures["off"] = max(figures[f"{name}_{way}_off"] for name in MODELS for way in WAYS)
    return Finding(figures, series)


def _roomy(device: str) -> None:
    if device == "cuda" and (held := torch.cuda.get_device_properties(0).total_memory) < _CARD:
        needs, cure = "the gpu tier needs a card of 80 GB", "run the tier record, which needs none"
        raise InputError(needs, f"one of {held / 1e9:.0f}", cure, path="language-model-memory")


def bilinear(setting: Setting, values: list[float]) -> Callable[[int, int], float]:
    """The formula through four peaks, in the order of widths and, for each, depths."""
    rows = [[1.0, d, layers, d * layers] for d, layers in product(setting.widths, setting.depths)]
    solved = torch.linalg.solve(torch.tensor(rows, dtype=torch.float64), torch.tensor(values, dtype=torch.float64))
    a, b, c, e = solved.tolist()
    return lambda d, layers: a + b * d + c * layers + e * d * layers


def peaks(name: str, width: int, layers: int, batch: int, device: str, seed: int) -> dict[str, float]:
    """Bytes above the weights of one step of each way; plain SGD that moves nothing, inside backward where fused."""
    model = adapted(name, width, layers, device, seed)
    generator = Generator().manual_seed(seed)
    tokens = torch.randint(_VOCABULARY, (batch, MODELS[name].tokens), generator=generator).to(device)
    labels = torch.arange(batch, device=device) % 2
    found = {}
    for way, make in WAYS.items():
        into = fg.Apply(lambda p: torch.optim.SGD(p, lr=0.0))
        with PeakBytes() as memory:
            fg.backward(make(), model, _loss, tokens, labels, into=into, key=fg.Key(seed))
        found[way] = float(memory.peak)
    return found


_VOCABULARY = 512  # its rows are weights, which are not counted


class _Classifier(nn.Module):
    """The last token's state, then a linear layer."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(input_ids=tokens, use_cache=False).last_hidden_state[:, -1])


def _loss(model: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens), labels)


def adapted(name: str, width: int, layers: int, device: str, seed: int) -> nn.Module:
    """A model of the published architecture with random weights, frozen, and adapters of rank 1 on query and value."""
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import LlamaConfig, LlamaModel, OPTConfig, OPTModel

    common: dict[str, Any] = {
        "vocab_size": _VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "pad_token_id": 0,
    }
    common |= {"num_attention_heads": width // _HEAD, "attn_implementation": "eager", "bos_token_id": 1}
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        if name == "llama":
            body: nn.Module = LlamaModel(LlamaConfig(**common, intermediate_size=width * 43 // 16, eos_token_id=2))
        else:
            config = OPTConfig(**common, ffn_dim=4 * width, word_embed_proj_dim=width, dropout=0.0, eos_token_id=2)
            body = OPTModel(config)
        model = _Classifier(body, width)
        inject_adapter_in_model(LoraConfig(r=1, lora_alpha=1, target_modules=["q_proj", "v_proj"]), model.body)
    for path, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in path or path.startswith("head"))
    return model.eval()


def draw(record: ClaimRecord) -> Figure:
    """What each way would hold at the published size, beside what was published."""
    import matplotlib.pyplot as plt

    names = {
        "backprop": ("backprop", "#2b2b2b"),
        "checkpointed": ("checkpointed", "#a5a5a5"),
        "fused": ("update fused", "#6e6e6e"),
        "forward": ("forward, K = 1", "#0072B2"),
    }
    figures = {name: sum(values) / len(values) for name, values in record.figures().items()}
    figure, both = plt.subplots(1, 2, figsize=(9.6, 3.4), sharey=True)
    for axes, (model, title) in zip(both, {"llama": "Llama2-7B", "opt": "OPT-13B"}.items(), strict=True):
        shape = MODELS[model]
        for place, (way, (_, colour)) in enumerate(names.items()):
            held = figures[f"{model}_{way}_gb"]
            end = max(held, shape.forward if way == "forward" else 0)
            axes.barh(-place, held, height=0.55, color=colour)
            axes.annotate(f"{held:.1f}", (end, -place), (8, 0), textcoords="offset points", va="center")
        for place, known in ((0, shape.backprop), (-3, shape.forward)):
            axes.plot([known] * 2, [place - 0.38, place + 0.38], color="#D55E00", lw=2.2)
        axes.axvline(shape.parameters / 2e9, color="#8a8a8a", lw=1, ls=":")
        axes.set(title=f"{title}, GB", xlim=(0, 1.25 * max(shape.backprop, figures[f"{model}_backprop_gb"])))
        axes.grid(visible=False)
        axes.set_xlabel("extrapolated; orange: published; dotted: weights of 4 bits", loc="left")
    both[0].set_yticks([0, -1, -2, -3], [label for label, _ in names.values()])
    return figure


CLAIM = Claim(
    id="language-model-memory",
    paper="2405.15551",
    sentence="Tuned by forward gradients, the adapters of Llama2-7B fit into 6.2 GB in place of backprop's 33.9, those "
    "of OPT-13B into 10.8 in place of 76.5.",
    published="Llama2-7B 33.9 to 6.2 GB, OPT-13B 76.5 to 10.8 GB; 1.4 to 7.1 times less than backprop",
    experiment=experiment,
    settings={
        "quick": Setting((128, 256), (2, 4), (("llama", 384, 6, 2), ("opt", 384, 6, 2))),
        "record": Setting((256, 512), (2, 4), (("llama", 1024, 8, 4), ("opt", 768, 10, 4))),
        # One card of 80 GB holds the whole of Llama2-7B in single precision, and OPT-13B up to sixteen layers.
        "gpu": Setting((1024, 2048), (4, 8), (("llama", 4096, 32, 8), ("opt", 5120, 16, 8)), device="cuda"),
    },
    checks=(
        Check("off", at_most=0.05),
        # The factors published, 5.5 and 7.1, for a quarter more or less: the texts' length is not known for sure.
        Check("llama_saving", 33.9 / 6.2 * 0.75, 33.9 / 6.2 * 1.25),
        Check("opt_saving", 76.5 / 10.8 * 0.75, 76.5 / 10.8 * 1.25),
    ),
    headline="extrapolated, weights of 4 bits, 8 texts: Llama2-7B {llama_backprop_gb:.1f} to {llama_forward_gb:.1f} GB "
    "(checkpointed {llama_checkpointed_gb:.1f}, fused {llama_fused_gb:.1f}), OPT-13B {opt_backprop_gb:.1f} to "
    "{opt_forward_gb:.1f} GB (checkpointed {opt_checkpointed_gb:.1f}, fused {opt_fused_gb:.1f}); the formula is at "
    "most {off:.1%} off on larger nets that it did not see",
    depends=(
        "forwardgrad.methods.forward",
        "forwardgrad.methods.checkpointed",
        "forwardgrad.tangents.rank_one",
        "forwardgrad.forward_ad.peak",
    ),
    packages={"transformers": "hf", "peft": "hf"},
    beyond="neither model, nor the memory it needs, is on these machines",
    draw=draw,
)
