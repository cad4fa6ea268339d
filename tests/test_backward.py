"""The one call: what it puts where `loss.backward()` would, and what optimizers make of it."""

from __future__ import annotations

import copy
import io
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import InputError, LostTangentError
from forwardgrad.methods import SPSA, Backprop, CheckpointedBackprop, ControlVariate, ForwardGradient
from forwardgrad.tangents import sampler

METHODS = [
    ForwardGradient(4),
    ForwardGradient(3, "rademacher", chunk_size=2),
    SPSA(num_tangents=2),
    Backprop(),
    CheckpointedBackprop(),
    CheckpointedBackprop(fused=True),
    ControlVariate(2),
]


def every_method(function):
    return pytest.mark.parametrize("method", METHODS, ids=repr)(function)


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    return model, (torch.randn(9, 5).double(), torch.randint(3, (9,)))


def loss_fn(model, x, y):
    return F.cross_entropy(model(x), y)


def by_hand(model, loss_fn, *batch, k=4, tangents="rank_one", key=fg.Key(1)):
    """1/K sum_k <g, v_k> v_k, with g from reverse mode: the naive twin of ForwardGradient."""
    params = {n: p for n, p in model.named_parameters() if p.requires_grad}
    out = loss_fn(model, *batch)
    loss = out[0] if isinstance(out, tuple) else out
    grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    used = {n: g for n, g in zip(params, grads, strict=True) if g is not None}
    v = sampler(tangents)(params, k, key).dense()
    c = sum(torch.einsum("k...,...->k", v[n], g) for n, g in used.items())
    return {n: torch.einsum("k,k...->...", c, v[n]) / k for n in used}


def grads_of(model):
    return {n: p.grad.clone() + 0 for n, p in model.named_parameters() if p.grad is not None}


def close(a, b, tolerance=1e-12):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].shape == b[name].shape
        gap = (a[name].double() - b[name].double()).norm()
        assert gap <= tolerance * b[name].double().norm(), f"{name}: {gap}"


@pytest.mark.parametrize("tangents", ["rank_one", "rademacher", "gaussian", "sphere", "orthonormal", "coordinate"])
def test_it_fills_the_gradient_written_out_by_hand(tangents):
    model, batch = small()
    loss = fg.backward(ForwardGradient(4, tangents), model, loss_fn, *batch, key=fg.Key(1))
    assert loss.shape == () and not loss.requires_grad
    torch.testing.assert_close(loss, loss_fn(model, *batch).detach())
    close(grads_of(model), by_hand(model, loss_fn, *batch, tangents=tangents))


@every_method
def test_calling_twice_adds_up(method):
    model, batch = small()
    sink = fg.Collect()
    ours = copy.deepcopy(method)
    for step in range(2):
        fg.backward(ours, model, loss_fn, *batch, key=fg.Key(1, step))
    ours = copy.deepcopy(method)
    for step in range(2):
        fg.backward(ours, model, loss_fn, *batch, key=fg.Key(1, step), into=sink)
    close(grads_of(model), {n: g + 0 for n, g in sink.grads.items()})


def test_half_batches_add_up_to_the_batch():
    model, (x, y) = small()
    total = lambda m, x, y: F.cross_entropy(m(x), y, reduction="sum")
    for part in (slice(0, 4), slice(4, 9)):
        fg.backward(ForwardGradient(4), model, total, x[part], y[part], key=fg.Key(1))
    close(grads_of(model), by_hand(model, total, x, y))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.AdamW(p, 0.01),
        lambda p: torch.optim.AdamW(p, 0.01, foreach=False),
        lambda p: torch.optim.RMSprop(p, 0.01),
        lambda p: torch.optim.Muon([q for q in p if q.ndim == 2], 0.01),
    ],
    ids=["sgd", "nesterov", "adamw", "adamw-single", "rmsprop", "muon"],
)
def test_optimizers_clipping_and_schedulers_see_an_ordinary_gradient(make):
    """Three steps with the estimate as it comes, against three with the same estimate made dense by hand."""
    (ours, batch), (theirs, _) = small(), small()
    steps = []
    for model in (ours, theirs):
        optimizer = make(list(model.parameters()))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        for step in range(3):
            optimizer.zero_grad()
            fg.backward(ForwardGradient(4), model, loss_fn, *batch, key=fg.Key(1, step))
            if model is theirs:
                for p in model.parameters():
                    p.grad = p.grad.densify() if isinstance(p.grad, fg.FactoredGradient) else p.grad
            steps.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
            optimizer.step()
            scheduler.step()
    assert steps[:3] == pytest.approx(steps[3:])
    close(dict(ours.named_parameters()), dict(theirs.named_parameters()), 1e-10)


def test_a_closure_for_lbfgs():
    model, batch = small()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=8)

    def closure():
        optimizer.zero_grad()
        return fg.backward(Backprop(), model, loss_fn, *batch)

    before = loss_fn(model, *batch).item()
    optimizer.step(closure)
    assert loss_fn(model, *batch).item() < 0.8 * before
    optimizer.step(lambda: (optimizer.zero_grad(), fg.backward(ForwardGradient(8), model, loss_fn, *batch, seed=0))[1])
    assert all(p.isfinite().all() for p in model.parameters())


@every_method
def test_frozen_and_unused_parameters_keep_no_gradient(method):
    model, batch = small()
    model.idle = nn.Linear(2, 2).double()
    model[0].weight.requires_grad_(False)
    forward = lambda m, x, y: F.cross_entropy(m[2](m[1](m[0](x))), y)
    fg.backward(copy.deepcopy(method), model, forward, *batch, key=fg.Key(1))
    assert model[0].weight.grad is None
    if not isinstance(method, SPSA):  # a black box does not say what it does not look at
        assert model.idle.weight.grad is None and model.idle.bias.grad is None
    assert model[0].bias.grad is not None and model[2].weight.grad is not None


def test_unused_parameters_add_no_noise_to_the_rest():
    """Their tangents are orthogonal to nothing: `project` and `mmse` count only the parameters that are used."""
    model, batch = small()
    used = sum(p.numel() for p in model.parameters())
    model.idle = nn.Linear(40, 40).double()
    forward = lambda m, x, y: F.cross_entropy(m[2](m[1](m[0](x))), y)
    fg.backward(ForwardGradient(4), model, forward, *batch, key=fg.Key(1))
    plain = grads_of(model)
    model.zero_grad()
    fg.backward(ForwardGradient(4, scale="mmse"), model, forward, *batch, key=fg.Key(1))
    close(grads_of(model), {n: g * 4 / (used + 3) for n, g in plain.items()})


@every_method
def test_params_chooses_by_name_or_by_tensor(method):
    model, batch = small()
    ours = copy.deepcopy(method)
    fg.backward(ours, model, loss_fn, *batch, params=["2.weight", model[0].bias], key=fg.Key(1))
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {"2.weight", "0.bias"}


def test_params_may_name_a_frozen_parameter():
    model, batch = small()
    model.requires_grad_(False)
    fg.backward(ForwardGradient(4), model, loss_fn, *batch, params=["2.bias"], key=fg.Key(1))
    model[2].bias.requires_grad_(True)
    close(grads_of(model), by_hand(model, loss_fn, *batch))


class Tied(nn.Module):
    def __init__(self, padding_idx=None):
        super().__init__()
        self.embed = nn.Embedding(6, 4, padding_idx=padding_idx)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(torch.tanh(self.mix(self.embed(x))))


TOKENS = torch.tensor([[0, 1, 2, 5], [3, 0, 0, 4]])


def tokens_loss(model, x):
    return F.cross_entropy(model(x).flatten(0, 1), x.roll(1, 1).flatten())


@pytest.mark.parametrize("tangents", ["rank_one", "rademacher"])
def test_tied_weights_share_one_tangent(tangents):
    torch.manual_seed(0)
    model = Tied().double()
    fg.backward(ForwardGradient(4, tangents), model, tokens_loss, TOKENS, key=fg.Key(1))
    assert set(grads_of(model)) == {"embed.weight", "mix.weight", "mix.bias"}
    close(grads_of(model), by_hand(model, tokens_loss, TOKENS, tangents=tangents))
    assert model.head.weight is model.embed.weight


@every_method
def test_the_padding_row_is_not_trained(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4, padding_idx=0), nn.Linear(4, 6)).double()
    fg.backward(copy.deepcopy(method), model, tokens_loss, TOKENS, key=fg.Key(1))
    grad = model[0].weight.grad + 0
    assert not grad[0].any() and grad[1:].all(1).all()


@pytest.mark.parametrize("method", [*METHODS[:4], SPSA(1e-5, 4, "rademacher")], ids=repr)
def test_the_padding_row_of_a_tied_embedding_is_trained_by_its_other_use_only(method):
    """As reverse mode has it: the row moves through the head; its own look-up is a constant."""
    torch.manual_seed(0)
    model = Tied(padding_idx=0).double()
    estimate = method(objective := fg.ModuleObjective(model, tokens_loss, TOKENS), objective.params, key=fg.Key(1))
    if len(estimate.slopes):
        exact = Backprop()(objective, objective.params).grad
        v = objective.admit(sampler(method.tangents)(objective.params, method.num_tangents, fg.Key(1)))
        torch.testing.assert_close(estimate.slopes, v.dot(exact), rtol=1e-5, atol=1e-6)


def test_sinks():
    (model, batch), (twin, _) = small(), small()
    collect = fg.Collect()
    loss = fg.backward(ForwardGradient(4), model, loss_fn, *batch, key=fg.Key(1), into=collect)
    assert all(p.grad is None for p in model.parameters())
    close({n: g + 0 for n, g in collect.grads.items()}, by_hand(model, loss_fn, *batch))

    apply = fg.Apply(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for step in range(2):
        optimizer.zero_grad()
        fg.backward(ForwardGradient(4), model, loss_fn, *batch, key=fg.Key(1, step), into=apply)
        fg.backward(ForwardGradient(4), twin, loss_fn, *batch, key=fg.Key(1, step))
        optimizer.step()
    close(dict(model.named_parameters()), dict(twin.named_parameters()))
    assert all(p.grad is None for p in model.parameters())
    assert set(apply.state_dict()) == set(dict(model.named_parameters())) and loss.isfinite()


def test_loss_and_aux():
    model, (x, y) = small()
    with_logits = lambda m, x, y: (F.cross_entropy(out := m(x), y), {"logits": out, "note": "kept"})
    for method in METHODS:
        objective = fg.ModuleObjective(model, with_logits, x, y)
        aux = copy.deepcopy(method)(objective, objective.params, key=fg.Key(1)).aux
        assert aux["note"] == "kept" and type(aux["logits"]) is torch.Tensor
        tolerance = 0.1 if isinstance(method, SPSA) else 1e-12  # the logits of a shifted model
        torch.testing.assert_close(aux["logits"].detach(), model(x).detach(), atol=tolerance, rtol=0)
    fg.backward(ForwardGradient(4), model, with_logits, x, y, key=fg.Key(1))
    close(grads_of(model), by_hand(model, with_logits, x, y))


def test_batches_of_dicts_and_nested_containers():
    model, (x, y) = small()
    nested = lambda m, batch, extra: F.cross_entropy(m(batch["x"] * extra[0]["scale"]), batch["y"])
    batch = {"x": x, "y": y}, [{"scale": torch.tensor(2.0).double()}]
    fg.backward(ForwardGradient(4), model, nested, *batch, key=fg.Key(1))
    close(grads_of(model), by_hand(model, nested, *batch))


def test_objects_in_a_batch_pass_through():
    model, (x, y) = small()
    named = lambda m, batch: F.cross_entropy(m(batch.x), batch.y)
    batch = SimpleNamespace(x=x, y=y)
    fg.backward(ForwardGradient(4), model, named, batch, key=fg.Key(1))
    close(grads_of(model), by_hand(model, named, batch))


def tiny_gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config).double().eval()


def test_model_outputs_of_hugging_face_and_its_key_value_cache():
    model = tiny_gpt2()
    ids = torch.randint(20, (2, 7))
    seen = []

    def loss(m, batch):
        out = m(**batch)
        seen.append(out.past_key_values)
        return out.loss, out

    batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    fg.backward(ForwardGradient(4), model, loss, batch, key=fg.Key(1))
    assert seen == [None] and model.config.use_cache
    close(grads_of(model), by_hand(model, loss, batch), 1e-5)  # its loss is computed in float32


def test_the_cache_is_switched_on_again_after_an_error():
    model = tiny_gpt2()

    def loss(m, ids):
        assert not m.config.use_cache
        m(input_ids=ids)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fg.backward(ForwardGradient(), model, loss, torch.randint(20, (2, 7)))
    assert model.config.use_cache


@pytest.mark.parametrize("source", ["key", "seed", "generator", "torch"])
def test_where_the_draw_comes_from(source):
    model, batch = small()
    given = {
        "key": lambda: {"key": fg.Key(5)},
        "seed": lambda: {"seed": 5},
        "generator": lambda: {"generator": torch.Generator().manual_seed(5)},
        "torch": lambda: torch.manual_seed(5) and {},
    }[source]
    seen = []
    for _ in range(2):
        model.zero_grad()
        options = given()
        fg.backward(ForwardGradient(4), model, loss_fn, *batch, **options)
        seen.append(grads_of(model))
        fresh = source == "generator" or source == "torch"
        fg.backward(ForwardGradient(4), model, loss_fn, *batch, **options)
        repeats = torch.allclose(model[0].weight.grad + 0, 2 * seen[-1]["0.weight"])
        assert repeats is not fresh
    assert all(torch.equal(seen[0][n], seen[1][n]) for n in seen[0])


def test_one_source_of_randomness_at_a_time():
    model, batch = small()
    with pytest.raises(InputError, match="one source"):
        fg.backward(ForwardGradient(), model, loss_fn, *batch, seed=1, key=fg.Key(1))


@every_method
def test_methods_print_copy_and_pickle(method):
    assert type(method).__name__ in repr(method)
    if not isinstance(method, ControlVariate):
        assert eval(repr(method), vars(fg.methods) | vars(fg)) == method == copy.deepcopy(method)
    model, batch = small()
    seen = []
    for twin in (method, copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert repr(twin) == repr(method)
        model.zero_grad()
        fg.backward(copy.deepcopy(twin), model, loss_fn, *batch, key=fg.Key(1))
        seen.append(grads_of(model))
    assert all(torch.equal(a, seen[0][n]) for other in seen for n, a in other.items())


def test_gradients_are_saved_and_loaded():
    model, batch = small()
    fg.backward(ForwardGradient(4), model, loss_fn, *batch, key=fg.Key(1))
    expected = grads_of(model)
    file = io.BytesIO()
    torch.save({n: p.grad for n, p in model.named_parameters()}, file)
    file.seek(0)
    close({n: g + 0 for n, g in torch.load(file).items()}, expected)


def test_the_functional_form_takes_plain_functions():
    a = torch.arange(1.0, 5.0, dtype=torch.float64)
    params = {"x": torch.ones(4, dtype=torch.float64), "s": torch.tensor(2.0, dtype=torch.float64)}
    bowl = lambda p: p["s"] * (a * p["x"].square()).sum() / 2
    exact = {"x": 2 * a, "s": a.sum() / 2}
    for objective in (bowl, fg.FunctionObjective(bowl)):
        close(Backprop()(objective, params).grad, exact)
        full = ForwardGradient(5, "gaussian", combine="project")(objective, params, key=fg.Key(0))
        close(full.grad, exact, 1e-8)
        assert full.key == fg.Key(0) and full.slopes.shape == (5,) and full.loss == bowl(params)
        close(SPSA(1e-4, 5, "orthonormal")(objective, params, key=fg.Key(0)).grad, exact, 1e-6)
        assert ControlVariate(2)(objective, params, key=fg.Key(0)).grad.keys() == params.keys()


def test_spsa_needs_values_only():
    """A function that leaves torch altogether, and one that gives a Python number."""
    import numpy

    a = numpy.arange(1.0, 5.0)
    params = {"x": torch.ones(4, dtype=torch.float64)}
    for box in (
        lambda p: float((a * p["x"].numpy() ** 2).sum() / 2),
        lambda p: torch.from_numpy(a * p["x"].numpy() ** 2).sum() / 2,
    ):
        grad = SPSA(1e-4, 4, "orthonormal")(box, params, key=fg.Key(0)).grad["x"]
        torch.testing.assert_close(grad, torch.from_numpy(a), rtol=1e-6, atol=0)


def test_a_loss_that_depends_on_nothing_is_refused():
    model, (x, y) = small()
    for method in (ForwardGradient(), Backprop(), CheckpointedBackprop(), ControlVariate()):
        with pytest.raises(LostTangentError) as caught:
            fg.backward(method, model, lambda m, x, y: x.sum(), x, y)
        assert caught.value.path == "loss"
        assert all(p.grad is None for p in model.parameters())
