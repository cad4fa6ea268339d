"""The apps in Flower's own simulation engine: its SuperNodes, its messages, its actors in processes of their own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
from federations import federation, single_process

from forwardgrad.federated import client_app, server_app

CLIENTS, ROUNDS = 3, 3


FEDERATION = federation(K=2)


def main():
    from flwr.simulation import run_simulation

    torch.set_num_threads(1)  # as Ray gives its workers: sums are split by threads
    heard = []
    server = server_app(FEDERATION, ROUNDS, clients=CLIENTS, after_round=lambda c, loss: heard.append(c.replica))
    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 1}}
    run_simulation(server, client_app(FEDERATION), CLIENTS, backend_config=backend)
    assert len(heard) == ROUNDS and heard[-1].step == ROUNDS
    # Which node has which place is decided by the random numbers that Flower gives to nodes.
    alone = [single_process(FEDERATION, ROUNDS, places).params for places in itertools.permutations(range(CLIENTS))]
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
