"""A client that pushes tangents holds a fraction of backprop's activations; checkpointed backprop does too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.federated import LayerSplit, Spry
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.module import ModuleObjective
from forwardgrad.testing.problems import cross_entropy
from forwardgrad.train.tasks.minilm import TextClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """MiniLM's shape with adapters of rank one on query and value, weights drawn; ten clients of a round."""

    rows: int = 2
    tokens: int = 64
    layers: int = 6
    width: int = 384
    clients: int = 10
    looked_at: tuple[int, ...] = field(default=(0, 4, 9))


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Peak bytes above weights and batch, in MiB, of what a client does in a round."""
    generator = Generator().manual_seed(seed)
    ids = torch.randint(1000, 30_000, (setting.rows, setting.tokens), generator=generator)
    net, batch = encoder(setting, generator, seed), (ids, torch.randint(4, (setting.rows,), generator=generator))
    f = ModuleObjective(net, cross_entropy, *batch)
    peaks = {f"spry_{slot}": _peak(lambda s=slot: _client(setting, f, s)) for slot in setting.looked_at}
    tell(f"clients: {', '.join(f'{peak:.1f}' for peak in peaks.values())} MiB")
    peaks["zeroth"] = _peak(lambda: fg.SPSA()(f, f.params, key=fg.Key(0)))
    peaks["forward"] = _peak(lambda: _evaluated(f))
    for name, (method, fused) in RIVALS.items():
        into = fg.Apply(lambda p: torch.optim.SGD(p, lr=0.0)) if fused else fg.Collect()
        peaks[name] = _peak(lambda m=method, i=into: fg.backward(m, net, cross_entropy, *batch, into=i))
        tell(f"{name}: {peaks[name]:.1f} MiB")
    split = LayerSplit()(f.params, setting.clients, 0)[setting.looked_at[0]]
    own = {name: f.params[name] for name in split}  # backprop of one client's layers alone, the first one's
    peaks["backprop_split"] = _peak(lambda: fg.backward(fg.Backprop(), net, cross_entropy, *batch, into=fg.Collect(),
                                                        params=list(own)))  # fmt: skip
    most = max(peaks[f"spry_{slot}"] for slot in setting.looked_at)
    ratios = {f"over_{name}": peaks[name] / most for name in ("backprop", "checkpointed", "fused", "backprop_split")}
    return Finding(peaks | ratios | {"spry": most})


def encoder(setting: Setting, generator: Generator, seed: int) -> TextClassifier:
    """BERT of that shape with adapters and a head, in the state in which training finds it."""
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=setting.width, num_hidden_layers=setting.layers, num_attention_heads=12,
        intermediate_size=4 * setting.width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = BertModel(config, add_pooling_layer=False)
        inject_adapter_in_model(LoraConfig(r=1, lora_alpha=1, target_modules=["query", "value"]), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return TextClassifier(model, setting.width, 4, generator)


def _client(setting: Setting, f: ModuleObjective, slot: int) -> Any:
    return Spry().measure(f, f.params, fg.Key(0), slot, setting.clients)


@torch.no_grad()
def _evaluated(f: ModuleObjective) -> Tensor:
    return f(f.params)


def _peak(step: Any) -> float:
    with PeakBytes() as memory:
        step()
    return memory.peak / 2**20


RIVALS = {
    "backprop": (fg.Backprop(), False),
    "checkpointed": (fg.CheckpointedBackprop(), False),
    "fused": (fg.CheckpointedBackprop(fused=True), True),
}


def draw(record: ClaimRecord) -> Figure:
    """Peaks as bars, ours first.

    Args:
        record: of this claim.
    """
    from matplotlib.figure import Figure

    names = {
        "spry": "Spry, a client's layers", "zeroth": "zeroth order", "forward": "a forward pass",
        "checkpointed": "checkpointed backprop", "fused": "checkpointed, update fused",
        "backprop_split": "backprop, a client's layers", "backprop": "backprop, all layers",
    }  # fmt: skip
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        peak = record.figures()[name][0]
        axes.barh(place, peak, height=0.6, color="#0072B2" if name == "spry" else "#8a8a8a")
        axes.annotate(f"{peak:.1f}", (peak, place), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(names)), names.values())
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set(title="Peak of a client above its weights, MiB")
    axes.margins(x=0.1)
    return figure


CLAIM = Claim(
    id="spry-memory",
    paper="2405.15551",
    sentence="A client holds 1.4 to 7.1 times less than with backpropagation.",
    published="1.4 to 7.1 times less; Llama2-7B 33.9 to 6.2 GB",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(rows=8, tokens=256)},
    checks=(Check("over_backprop", at_least=1.4),),
    headline="peak above the weights, MiB: the client that holds most {spry:.1f} (a forward pass {forward:.1f}, "
    "zeroth-order {zeroth:.1f}); backprop {backprop:.1f}, {over_backprop:.1f} times as much, of its own layers alone "
    "{backprop_split:.1f}; checkpointed {checkpointed:.1f}, {over_checkpointed:.1f} times; fused {fused:.1f}",
    depends=("forwardgrad.federated.spry", "forwardgrad.federated.split", "forwardgrad.methods.checkpointed"),
    packages={"transformers": "hf", "peft": "hf"},
    draw=draw,
)
