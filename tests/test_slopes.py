"""Slopes: pushed, chunked under a budget, and by differences that never touch a weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import InputError, RungError
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.slopes import Central, Jvp, OneSided, slope
from forwardgrad.tangents import sampler

KIB = 1024


def small(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.GELU(), nn.Linear(7, 3)).to(dtype)
    return fg.ModuleObjective(model, loss_fn, torch.randn(9, 5).to(dtype), torch.randint(3, (9,)))


def loss_fn(model, x, y):
    return F.cross_entropy(model(x), y)


def exact(objective, v):
    return v.dot(fg.Backprop()(objective, objective.params).grad)


def draw(objective, k, tangents="rank_one"):
    return objective.admit(sampler(tangents)(objective.params, k, fg.Key(1)))


@pytest.mark.parametrize("tangents", ["rank_one", "rademacher", "gaussian", "coordinate"])
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 7, 8, 100])
def test_chunks_give_the_slopes_of_reverse_mode(tangents, chunk_size):
    objective = small()
    v = draw(objective, 8, tangents)
    seen = Jvp(chunk_size)(objective, objective.params, v)
    torch.testing.assert_close(seen.slopes, exact(objective, v), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(seen.loss, objective(objective.params).detach())
    assert seen.slopes.shape == (8,) and seen.reached == frozenset(objective.params)


@pytest.mark.parametrize("chunk_size", [1, 3, "auto"])
def test_chunks_in_any_size_are_pushed_once_each(chunk_size):
    objective, sizes = small(), []
    push = objective.push
    objective.push = lambda params, v: (sizes.append(v.num_tangents), push(params, v))[1]
    Jvp(chunk_size, 10**9 if chunk_size == "auto" else None)(objective, objective.params, draw(objective, 8))
    assert sum(sizes) == 8 and sizes == {1: [1] * 8, 3: [3, 3, 2], "auto": [1, 7]}[chunk_size]


def wide():
    """A net whose tangents are heavier than its weights: 64 rows, 512 wide."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 512), nn.GELU(), nn.Linear(512, 32), nn.GELU(), nn.Linear(32, 4))
    return fg.ModuleObjective(model, loss_fn, torch.randn(64, 32), torch.randint(4, (64,)))


@pytest.mark.parametrize("tangents", ["rank_one", "gaussian"])
@pytest.mark.parametrize("budget", [600 * KIB, 1500 * KIB, 4000 * KIB])
def test_auto_stays_under_its_byte_budget_and_uses_it(tangents, budget):
    objective = wide()
    v = draw(objective, 48, tangents)
    sizes, peaks = [], []
    push = objective.push

    def watched(params, part):
        with PeakBytes() as memory:
            out = push(params, part)
        sizes.append(part.num_tangents)
        peaks.append(memory.peak)
        return out

    objective.push = watched
    seen = Jvp("auto", budget)(objective, objective.params, v)
    assert sum(sizes) == 48 and max(peaks) <= budget, (sizes, peaks)
    if budget < 2 * peaks[0]:
        assert set(sizes) == {1}
    else:
        assert max(peaks) > 0.7 * budget, (sizes, peaks)
    torch.testing.assert_close(seen.slopes, exact(objective, v), rtol=1e-4, atol=1e-4)


def test_auto_pushes_one_by_one_where_nothing_else_fits():
    objective = wide()
    v = draw(objective, 5)
    seen = Jvp("auto", 1)(objective, objective.params, v)
    torch.testing.assert_close(seen.slopes, Jvp()(objective, objective.params, v).slopes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tangents", ["rank_one", "rademacher", "gaussian", "orthonormal", "coordinate"])
def test_differences_converge_to_the_slopes_at_their_order(tangents):
    """Central: O(eps^2), one-sided: O(eps)."""
    objective = small()
    v = draw(objective, 4, tangents)
    target = exact(objective, v)
    for kind, order in ((Central, 2), (OneSided, 1)):
        errors = [float((kind(eps)(objective, objective.params, v).slopes - target).norm()) for eps in (1e-2, 1e-3)]
        assert 0.7 * 10**order < errors[0] / errors[1] < 1.4 * 10**order, (kind, errors)


def test_differences_give_the_loss_of_the_weights():
    objective = small()
    v, loss = draw(objective, 4), objective(objective.params).detach()
    assert torch.equal(OneSided()(objective, objective.params, v).loss, loss)
    torch.testing.assert_close(Central()(objective, objective.params, v).loss, loss, rtol=0, atol=1e-4)


def test_differences_of_low_precision_losses_are_taken_in_single_precision():
    objective = small(torch.bfloat16)
    for kind in (Central(), OneSided()):
        seen = kind(objective, objective.params, draw(objective, 2))
        assert seen.loss.dtype == seen.slopes.dtype == torch.float32


@pytest.mark.parametrize("tangents", ["rank_one", "rademacher", "gaussian"])
@pytest.mark.parametrize("kind", [Central, OneSided])
def test_bfloat16_weights_are_bit_equal_after_differences(kind, tangents):
    objective = small(torch.bfloat16)
    before = {n: p.detach().clone() for n, p in objective.params.items()}
    versions = {n: p._version for n, p in objective.params.items()}
    kind(1e-2)(objective, objective.params, draw(objective, 4, tangents))
    assert all(torch.equal(p, before[n]) for n, p in objective.params.items())
    assert all(p._version == versions[n] for n, p in objective.params.items()), "never written to, not even and back"


def test_a_hundred_steps_of_spsa_in_bfloat16_write_only_what_the_optimizer_writes():
    objective = small(torch.bfloat16)
    before = {n: p.detach().clone() for n, p in objective.params.items()}
    for step in range(100):
        fg.SPSA(1e-2)(objective, objective.params, key=fg.Key(0, step))
    assert all(torch.equal(p, before[n]) for n, p in objective.params.items())


def test_a_shifted_layer_makes_no_copy_of_a_matrix():
    """x W^T + eps (x . b) a^T: at K = 1 the peak of differences is that of a forward pass, whatever the weights."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(4)))
    objective = fg.ModuleObjective(model, loss_fn, torch.randn(4, 256), torch.randint(256, (4,)))
    v = draw(objective, 1)
    with PeakBytes() as memory:
        Central()(objective, objective.params, v)
    assert memory.peak < 256 * 256 * 4


@pytest.mark.parametrize("layer", ["linear", "embedding", "conv", "bilinear", "norm", "recurrent", "attention"])
@pytest.mark.parametrize("tangents", ["rank_one", "gaussian"])
def test_differences_of_every_kind_of_layer(layer, tangents):
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4).double()
    model, call = {
        "linear": (nn.Linear(4, 3), lambda m: m(x)),
        "embedding": (nn.Embedding(7, 4, padding_idx=2), lambda m: m(torch.tensor([[0, 2, 6], [2, 3, 3]]))),
        "conv": (nn.Conv1d(6, 5, 3), lambda m: m(x)),
        "bilinear": (nn.Bilinear(4, 4, 3), lambda m: m(x, x.flip(0))),
        "norm": (nn.LayerNorm(4), lambda m: m(x)),
        "recurrent": (nn.GRU(4, 3, batch_first=True), lambda m: m(x)[0]),
        "attention": (nn.MultiheadAttention(4, 2, batch_first=True), lambda m: m(x, x, x)[0]),
    }[layer]
    objective = fg.ModuleObjective(model.double(), lambda m: call(m).sin().mean())
    v = draw(objective, 3, tangents)
    seen = Central(1e-4)(objective, objective.params, v).slopes
    torch.testing.assert_close(seen, exact(objective, v), rtol=1e-5, atol=1e-6)


def test_a_black_box_gets_its_moved_weights_written_out():
    seen = []
    f = lambda p: seen.append({n: x.clone() for n, x in p.items()}) or p["w"].sum()
    params = {"w": torch.zeros(2, 3, dtype=torch.float64), "still": torch.ones(1)}
    v = sampler("rank_one")({"w": params["w"]}, 1, fg.Key(0))
    Central(0.5)(f, params, v)
    plus, minus = seen
    torch.testing.assert_close(plus["w"], 0.5 * v["w"].dense()[0])
    torch.testing.assert_close(minus["w"], -0.5 * v["w"].dense()[0])
    assert torch.equal(plus["still"], params["still"]) and not params["w"].any()


def test_a_black_box_that_does_not_give_one_number():
    for bad in (lambda p: p["w"], lambda p: [1.0, 2.0], lambda p: "loss"):
        with pytest.raises(InputError, match="one number") as caught:
            Central()(bad, {"w": torch.zeros(3)}, sampler("gaussian")({"w": torch.zeros(3)}, 1, fg.Key(0)))
        assert caught.value.path == "loss"


def test_a_push_needs_more_than_values():
    class Values(nn.Module):
        def forward(self, params):
            return params["w"].sum()

    with pytest.raises(RungError, match="Jvp needs tangents pushed forward"):
        Jvp()(Values(), {"w": torch.zeros(3)}, sampler("gaussian")({"w": torch.zeros(3)}, 1, fg.Key(0)))


def test_shorthands():
    assert slope("jvp") == Jvp() and slope("central") == Central() and slope("one_sided") == OneSided()
    assert slope(Central(0.1)) == Central(0.1)
    with pytest.raises(InputError, match="choose one of `central`, `jvp`, `one_sided`"):
        slope("reverse")
