"""The apps in Flower's own simulation engine: its SuperNodes, its messages, its actors in processes of their own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.federated import Closed, Federation, Order, Spry, client_app, server_app

CLIENTS, ROUNDS = 3, 3


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def loss_fn(model, x, y):
    return F.cross_entropy(model(x), y)


def batch(partition, partitions, step):
    generator = torch.Generator().manual_seed(1000 * step + partition)
    rows = 16 + partition
    return torch.randn(rows, 6, generator=generator), torch.randint(3, (rows,), generator=generator)


def optimizer(params):
    return torch.optim.Adam(params, lr=0.01)


FEDERATION = Federation(build, loss_fn, batch, Spry(method=fg.ForwardGradient(2)), optimizer, seed=2**62)


def single_process(partitions):
    """The weights of one process that plays all clients; the client at place i has the data of partitions[i]."""
    replica = FEDERATION.replica()
    for t in range(ROUNDS):
        orders = [Order(FEDERATION.seed, t, i, CLIENTS, 0, ()) for i in range(CLIENTS)]
        each = [replica.measure(loss_fn, batch(partitions[o.slot], CLIENTS, t), o) for o in orders]
        replica.follow(Closed(tuple(a.slopes for a in each), tuple(a.examples for a in each)))
    return replica.params


def main():
    from flwr.simulation import run_simulation

    torch.set_num_threads(1)  # as Ray gives its workers: sums are split by threads
    heard = []
    server = server_app(FEDERATION, ROUNDS, clients=CLIENTS, after_round=lambda c, loss: heard.append(c.replica))
    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 1}}
    run_simulation(server, client_app(FEDERATION), CLIENTS, backend_config=backend)
    assert len(heard) == ROUNDS and heard[-1].step == ROUNDS
    # Which node has which place is decided by the random numbers that Flower gives to nodes.
    alone = [single_process(places) for places in itertools.permutations(range(CLIENTS))]
    same = [all(torch.equal(heard[-1].params[name], p) for name, p in params.items()) for params in alone]
    assert same.count(True) == 1, same


def test_the_simulation_engine_ends_with_the_weights_of_a_single_process():
    pytest.importorskip("flwr", reason="Flower is not installed")
    pytest.importorskip("ray", reason="Ray, Flower's simulation engine, is not installed")
    # Ray would look for the network, and put its workers behind everything else that runs.
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    ran = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


if __name__ == "__main__":
    main()
