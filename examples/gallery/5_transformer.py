"""
A stock transformer, by LoRA, forwards only
===========================================

A BERT of the transformers library, made small here, with low-rank adapters by peft: neither knows of this library. It
learns to tell two kinds of sentences by their words, some of which the kinds share. It needs the extra ``hf``.
"""

import matplotlib.pyplot as plt
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

import forwardgrad as fg

plt.style.use("forwardgrad.train.look")
torch.set_num_threads(1)


def fresh():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2,
    )  # fmt: skip
    lora = LoraConfig(r=2, lora_alpha=8, target_modules=["query", "value"], modules_to_save=["classifier"])
    return get_peft_model(BertForSequenceClassification(config), lora)


def loss_fn(model, inputs):
    return model(**inputs).loss


def sentences(count, generator):
    """Random words: 1 to 20 under label 0, 12 to 31 under label 1."""
    labels = torch.randint(2, (count,), generator=generator)
    words = torch.randint(1, 21, (count, 11), generator=generator) + 11 * labels[:, None]
    return {"input_ids": words, "labels": labels}


# %%
# Before the first step: does forward mode work on this model? The doctor pushes one tangent through it, and compares
# the slope with autograd's.

data = torch.Generator().manual_seed(0)
model, batch = fresh(), sentences(64, data)
report = fg.doctor(model, loss_fn, batch)
print(report)
assert report, "no operation stands in the way"
assert report.error < 1e-5, "the slope is autograd's"

# %%
# The adapters and the head are the only parameters with a gradient, and nothing goes on the tape.

method = fg.ForwardGradient(num_tangents=8, scale="mmse")
costs = {name: fg.measure(way, model, loss_fn, batch, repeats=1) for name, way in {
    "backprop": fg.Backprop(), "checkpointed": fg.CheckpointedBackprop(), "forward gradient, K = 8": method,
}.items()}  # fmt: skip
assert costs["forward gradient, K = 8"].tape_bytes == 0
trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
print(f"{trained} trained parameters of {sum(p.numel() for p in model.parameters())}")
print(*costs.values(), sep="\n")

# %%
# Then a loop like any other, once with each gradient.


def train(method, lr, steps):
    model, data = fresh(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr, momentum=0.9)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        losses.append(float(fg.backward(method, model, loss_fn, sentences(64, data), key=fg.Key(0, step))))
        optimizer.step()
        optimizer.zero_grad()
    return losses


curves = {"backprop": train(fg.Backprop(), 0.1, 80), "forward gradient, K = 8": train(method, 0.6, 100)}
for losses in curves.values():
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])

# %%
# Backprop learns faster here, in steps and in forward passes alike: it fits, and where it fits it wins. What the
# forward gradient buys is an empty tape, the full colour on the right. Its peak is higher here: eight tangents of every
# activation are alive at once, and there are only two layers to save. ``chunk_size=1`` would hold one at a time.

colours = {"backprop": "#2b2b2b", "checkpointed": "#8a8a8a", "forward gradient, K = 8": "#0072B2"}
fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.0), width_ratios=(1.25, 1))
for name, losses in curves.items():
    forwards = [costs[name].forward_passes * step for step in range(len(losses))]
    left.plot(forwards, losses, color=colours[name], lw=0.8, alpha=0.3)
    smooth = torch.tensor(losses).unfold(0, 15, 1).mean(1)
    left.plot(forwards[7 : 7 + len(smooth)], smooth, color=colours[name], label=name)
left.set(title="Training loss", xlabel="forward passes, counted by FLOPs", ylim=(0, 0.85))
left.legend(loc="upper right")

names = list(costs)[::-1]
peaks, tapes = ([getattr(costs[name], field) / 1024 for name in names] for field in ("peak_bytes", "tape_bytes"))
right.barh(names, peaks, height=0.55, color=[colours[name] for name in names], alpha=0.35)
right.barh(names, tapes, height=0.55, color=[colours[name] for name in names])
for place, (peak, tape) in enumerate(zip(peaks, tapes, strict=True)):
    right.text(peak, place, f"  {peak:,.0f}, tape {tape:,.0f}", va="center", fontsize=9, color="#666666")
right.set(title="Peak of one step, KiB", xlim=(0, 1.45 * max(peaks)))
right.grid(visible=False)
plt.show()
