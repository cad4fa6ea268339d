"""The federation that several tests here run, each over another engine, and the single process it must end like."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.federated import Closed, Federation, Order, Spry


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def loss_fn(model, x, y):
    return F.cross_entropy(model(x), y)


def batch(partition, partitions, step):
    generator = torch.Generator().manual_seed(1000 * step + partition)
    rows = 16 + partition
    return torch.randn(rows, 6, generator=generator), torch.randint(3, (rows,), generator=generator)


def federation(seed=2**62, build=build, K=1):
    return Federation(
        build, loss_fn, batch, Spry(method=fg.ForwardGradient(K)), lambda p: torch.optim.Adam(p, lr=0.01), seed
    )


def single_process(federation, rounds, partitions):
    """The weights of one process that plays all clients, without a message; who is at place i has partitions[i]."""
    replica, clients = federation.replica(), len(partitions)
    for t in range(rounds):
        answers = [
            replica.measure(loss_fn, batch(partition, clients, t), Order(federation.seed, t, i, clients, 0, ()))
            for i, partition in enumerate(partitions)
        ]
        replica.follow(Closed(tuple(a.slopes for a in answers), tuple(a.examples for a in answers)))
    return replica
