"""Spry: against autograd and a naive twin, its variance, its wire, and replicas that stay bit for bit the same."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import InputError, LostTangentError, ReplicaError
from forwardgrad.federated import (
    Coordinator,
    EveryLayer,
    LayerSplit,
    Replica,
    Spry,
    dirichlet_partition,
)
from forwardgrad.federated.split import by_layer
from forwardgrad.federated.spry import of_client
from forwardgrad.flops import count_flops
from forwardgrad.probes import tape_bytes
from forwardgrad.tangents import Rademacher

KEY = fg.Key(3, 5)


class Adapted(nn.Module):
    """A frozen layer with a LoRA adapter."""

    def __init__(self, width):
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(1, width)), nn.Parameter(torch.randn(width, 1))

    def forward(self, x):
        return torch.tanh(self.base(x) + (x @ self.lora_A.T) @ self.lora_B.T)


def build(dtype=torch.float32, layers=3):
    torch.manual_seed(0)
    return nn.Sequential(*(Adapted(5) for _ in range(layers)), nn.Linear(5, 3)).to(dtype)


def loss_fn(model, x, y):
    return F.cross_entropy(model(x), y)


def data(client=0, step=0, rows=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(100 * step + client)
    return torch.randn(rows, 5, generator=generator, dtype=dtype), torch.randint(3, (rows,), generator=generator)


def objective(client=0, dtype=torch.float64, model=None):
    return fg.ModuleObjective(model or build(dtype), loss_fn, *data(client, dtype=dtype))


def exact(f):
    return fg.Backprop()(f, f.params).grad


def test_an_adapter_belongs_to_the_layer_that_it_adapts():
    names = ["h.0.q.lora_A.default.weight", "h.0.q.lora_B.default.weight", "head.weight", "head.bias", "scale"]
    assert list(by_layer(names)) == ["h.0.q", "head", ""]
    assert by_layer(names)["h.0.q"] == tuple(names[:2])


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 7, 10])
def test_every_layer_has_a_client_and_every_client_a_layer(slots):
    names = list(objective().params)
    for step in (0, 1, 9):
        shares = LayerSplit()(names, slots, step)
        assert all(shares) and set().union(*shares) == set(names)
        assert slots > 4 or sum(map(len, shares)) == len(names), "nothing is measured twice"
        owners = [sum(layer[0] in share for share in shares) for layer in by_layer(names).values()]
        assert max(owners) - min(owners) <= 1


def test_in_turn_every_client_has_every_layer():
    names, slots = list(objective().params), 6
    seen = {
        (slot, name) for t in range(slots) for slot, own in enumerate(LayerSplit()(names, slots, t)) for name in own
    }
    assert len(seen) == slots * len(names)
    still = LayerSplit(rotate=False)
    assert still(names, slots, 0) == still(names, slots, 1)


@pytest.mark.parametrize("slots", [2, 6])
def test_the_estimate_is_what_the_equation_says(slots):
    """The twin takes exact gradients of each client, and weighs and sums entry by entry."""
    model = build(torch.float64)
    clients = [objective(i, model=model) for i in range(slots)]
    rule = Spry(method=fg.ForwardGradient(3, "rademacher"))
    params, seen = clients[0].params, rule.over(clients, clients[0].params, KEY)
    shares, sums = LayerSplit()(params, slots, KEY.step), dict.fromkeys(params, 0.0)
    for slot, f in enumerate(clients):
        own = {name: params[name] for name in shares[slot]}
        v = {name: kind.dense() for name, kind in Rademacher()(own, 3, of_client(KEY, slot)).items()}
        g = exact(f)
        c = sum((v[name] * g[name]).flatten(1).sum(1) for name in own)
        torch.testing.assert_close(seen.slopes[3 * slot : 3 * slot + 3], c)
        for name in own:
            owners = sum(name in share for share in shares)
            sums[name] = sums[name] + torch.einsum("k,k...->...", c, v[name]) / 3 / owners
    for name, g in seen.grad.items():
        torch.testing.assert_close(g + 0, sums[name])


def test_unlike_clients_give_the_gradient_of_their_own_layers():
    """Along as many orthonormal directions as a share has entries no randomness is left."""
    model, slots = build(torch.float64, layers=1), 2
    clients = [objective(i, model=model) for i in range(slots)]
    params = clients[0].params
    for slot, share in enumerate(LayerSplit()(params, slots, 0)):
        size = sum(params[name].numel() for name in share)
        own = Spry(method=fg.ForwardGradient(size, "orthonormal")).measure(
            clients[slot], params, fg.Key(0), slot, slots
        )
        for name, g in exact(clients[slot]).items():
            if name in share:
                torch.testing.assert_close(own.grad[name] + 0, g)
                assert not torch.allclose(g, exact(clients[1 - slot])[name], rtol=0.05), "clients are to differ"
    with pytest.raises(InputError):
        Spry(method=fg.ForwardGradient(100, "orthonormal")).measure(clients[0], params, fg.Key(0), 0, slots)


def test_variance_is_the_sum_over_shares():
    f, slots, draws = objective(), 4, 400
    rule, g = Spry(slots, fg.ForwardGradient(1, "rademacher")), exact(f)
    shares = LayerSplit(rotate=False)(f.params, slots, 0)
    square = lambda share: sum(float(g[name].square().sum()) for name in share)
    law = sum((sum(g[n].numel() for n in share) - 1) * square(share) for share in shares)
    errors = torch.tensor([
        sum(float((estimate[name] + 0 - g[name]).square().sum()) for name in g)
        for estimate in (rule(f, f.params, key=fg.Key(1, t * slots)).grad for t in range(draws))
    ])  # fmt: skip
    z = (float(errors.mean()) - law) / (float(errors.std()) / math.sqrt(draws))
    assert abs(z) < 5, (float(errors.mean()), law)


def test_a_client_pushes_nothing_before_its_first_layer_and_leaves_no_tape():
    f, rule = objective(dtype=torch.float32), Spry(split=LayerSplit(rotate=False))
    M = len(by_layer(f.params))
    spent = [count_flops(partial(rule.measure, f, f.params, KEY, slot, M)).products for slot in range(M)]
    assert spent == sorted(spent, reverse=True) and len(set(spent)) == M
    with tape_bytes(f.model) as offered:
        for slot in range(M):
            rule.measure(f, f.params, KEY, slot, M)
    assert offered() == 0


def test_a_key_and_slopes_rebuild_the_estimate_bit_for_bit():
    f, rule = objective(dtype=torch.float32), Spry(6, fg.ForwardGradient(2))
    estimate = rule(f, f.params, key=KEY)
    sent = [torch.tensor(c.tolist()) for c in estimate.slopes.split(2)]
    other = objective(dtype=torch.float32)
    rebuilt = rule.rebuild(other, other.params, sent, [1] * 6, KEY)
    assert all(torch.equal(rebuilt[name] + 0, g + 0) for name, g in estimate.grad.items())
    assert set(rebuilt) == set(f.params)


def replica(rule=None, seed=7, lr=0.05):
    return Replica(build(), rule or Spry(method=fg.ForwardGradient(2)), lambda p: torch.optim.Adam(p, lr=lr), seed)


def run(server, clients, rounds, silent=()):
    """A federation without a wire; `silent` clients answer in none of the rounds named."""
    for t in range(rounds):
        orders = server.orders(list(clients))
        answers = {}
        for i, order in orders.items():
            if (i, t) not in silent:
                clients[i].catch_up(order)
                answers[i] = clients[i].measure(loss_fn, data(i, t, rows=4 + i), order)
        server.close(orders, answers)


def test_all_replicas_and_a_single_process_have_the_same_bits():
    server, clients = Coordinator(replica()), {i: replica() for i in range(5)}
    run(server, clients, 6, silent={(2, 1), (2, 2), (4, 5)})
    alone = replica()
    for t in range(6):
        missing = {i for i, at in {(2, 1), (2, 2), (4, 5)} if at == t}
        f = [fg.ModuleObjective(alone.model, loss_fn, *data(i, t, rows=4 + i)) for i in range(5)]
        slopes = [alone.rule.measure(f[i], f[i].params, fg.Key(7, t), i, 5).slopes for i in range(5)]
        slopes = [torch.empty(0) if i in missing else c for i, c in enumerate(slopes)]
        grad = alone.rule.rebuild(
            f[0], f[0].params, slopes, [0 if i in missing else 4 + i for i in range(5)], fg.Key(7, t)
        )
        for name, p in alone.params.items():
            p.grad = grad.get(name)
        alone.optimizer.step()
    same = lambda a, b: all(torch.equal(a.params[name], b.params[name]) for name in a.params)
    assert same(server.replica, alone) and server.replica.check() == alone.check()
    assert not same(server.replica, replica())
    order = server.orders([2])[2]
    clients[2].catch_up(order)
    assert same(clients[2], server.replica)


def test_a_late_client_gets_the_whole_run_and_a_forgetful_one_again():
    server, clients = Coordinator(replica()), {i: replica() for i in range(3)}
    run(server, clients, 4)
    late = replica()
    late.catch_up(server.orders([9])[9])
    assert late.check() == server.replica.check()
    clients[1] = replica()
    with pytest.raises(ReplicaError, match="rounds from 3 on at step 0"):
        clients[1].catch_up(server.orders([1])[1])
    server.behind(1, 0)
    clients[1].catch_up(server.orders([1])[1])
    assert clients[1].check() == server.replica.check()


def test_a_replica_is_saved_whole_and_stops_when_its_weights_are_others():
    server, clients = Coordinator(replica()), {i: replica() for i in range(2)}
    run(server, clients, 3)
    other = replica()
    other.restore(clients[0].to_bytes())
    run(server, clients | {0: other}, 2)
    with torch.no_grad():
        next(iter(other.params.values())).view(-1)[0] += 1e-6
    with pytest.raises(ReplicaError, match="weights of all others"):
        other.catch_up(server.orders([0])[0])


def test_bad_input_is_a_sentence():
    with pytest.raises(InputError, match="M >= 1"):
        Spry(0)
    with pytest.raises(InputError, match="rebuilds"):
        Spry(2, fg.Backprop())
    with pytest.raises(InputError, match="trained parameters"):
        LayerSplit()([], 2, 0)
    with pytest.raises(InputError, match="at least one client"):
        EveryLayer()(["a"], 0, 0)
    server = Coordinator(replica())
    for clients in ([], [1, 1]):
        with pytest.raises(InputError, match="each once"):
            server.orders(clients)
    with pytest.raises(ReplicaError, match="none from 2 clients"):
        server.close(server.orders([1, 2]), {})
    assert server.replica.step == 0
    cut = fg.ModuleObjective(build(), lambda model, x, y: loss_fn(model, x, y).detach(), *data())
    with pytest.raises(LostTangentError):
        Spry()(cut, cut.params)


def test_clients_without_layers_evaluate_and_have_no_slopes():
    class First:
        def __call__(self, names, slots, step):
            return [tuple(names)] + [()] * (slots - 1)

    f, rule = objective(), Spry(3, split=First())
    estimate = rule(f, f.params, key=KEY)
    assert len(estimate.slopes) == 1 and set(estimate.grad) == set(f.params)
    torch.testing.assert_close(estimate.loss, f(f.params).detach())


def test_dirichlet_shares_are_whole_and_the_more_unlike_the_smaller_alpha():
    labels = torch.arange(4).repeat_interleave(250)
    unlike = {}
    for alpha in (0.1, 1.0, 100.0, math.inf):
        parts = dirichlet_partition(labels, 10, alpha, seed=0)
        assert torch.equal(torch.cat(parts).sort().values, torch.arange(1000)) and min(map(len, parts)) >= 1
        counts = torch.stack([labels[rows].bincount(minlength=4) / len(rows) for rows in parts])
        unlike[alpha] = float((counts - 0.25).abs().sum(1).mean())
    assert unlike[0.1] > unlike[1.0] > unlike[100.0] > unlike[math.inf] == 0
    assert all(map(torch.equal, *(dirichlet_partition(labels, 5, 1.0, seed=3) for _ in range(2))))
    with pytest.raises(InputError, match="alpha > 0"):
        dirichlet_partition(labels, 5, 0.0, seed=0)
    with pytest.raises(InputError, match="an example for each"):
        dirichlet_partition(labels[:3], 5, 1.0, seed=0)
