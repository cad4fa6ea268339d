"""The same over Flower's message API: real apps, real messages, each serialised on its way."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from federations import federation, single_process
from torch import nn

from forwardgrad.errors import InputError, MissingExtraError, ReplicaError
from forwardgrad.federated import Answer, Closed, Order, client_app, server_app

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def run_in_process():
    pytest.importorskip("flwr")
    from forwardgrad.testing.in_process import run_in_process

    return run_in_process


def test_the_server_has_the_weights_of_a_single_process(run_in_process):
    heard = []
    server = server_app(federation(), 4, clients=4, after_round=lambda c, loss: heard.append((loss, c.replica)))
    grid = run_in_process(server, client_app(federation()), 4)
    alone = single_process(federation(), 4, range(4))
    final = heard[-1][1]
    assert len(heard) == 4 and final.step == 4
    assert all(torch.equal(final.params[name], p) for name, p in alone.params.items())
    assert max(size.message for sizes in grid.down for size in sizes) <= 500
    assert max(size.message for sizes in grid.up for size in sizes) <= 200


def test_clients_that_are_sampled_silent_or_forgetful_keep_up(run_in_process):
    heard = []
    server = server_app(federation(), 8, clients=6, per_round=3, after_round=lambda c, loss: heard.append(c))
    client = client_app(federation())

    class Forgetful:
        def __call__(self, message, context):
            if context.node_config["partition-id"] == 1 and len(heard) == 4:
                context.state.clear()
            return client(message, context)

    grid = run_in_process(server, Forgetful(), 6, silent=[(2, 1), (3, 2), (0, 3)])
    assert len(heard) == 8 and all(len(sizes) == 3 for sizes in grid.down)
    assert sum(map(len, grid.up)) < 24, "the seed was to have a silent client in some round"


def test_orders_and_answers_come_back_as_they_were():
    pytest.importorskip("flwr")
    from forwardgrad.federated.flower import answer_record, order_record, read_answer, read_order

    missed = (Closed(((0.1, -2.0), (), (3.5,)), (4, 0, 7)), Closed(((1e-30,),), (1,)))
    for order in (Order(2**62, 3, 1, 2, 2**55, missed), Order(0, 0, 0, 1, 1, ())):
        assert read_order(order_record(order)) == order
    for answer in (Answer((1 / 3, -0.25), 2.5, 16), Answer((), 0.5, 3)):
        assert read_answer(answer_record(answer)) == answer
    from flwr.app import RecordDict

    with pytest.raises(InputError, match="a record `spry`"):
        read_order(RecordDict())


def test_bad_input_is_a_sentence(run_in_process):
    with pytest.raises(InputError, match="at most all"):
        server_app(federation(), 2, clients=3, per_round=4)
    with pytest.raises(ReplicaError, match="its 3 nodes; found 2"):
        run_in_process(server_app(federation(), 2, clients=3, timeout=0.0), client_app(federation()), 2)
    with pytest.raises(ReplicaError, match="none from 2 clients"):
        run_in_process(server_app(federation(), 1, clients=2), client_app(federation()), 2, silent=[(0, 0), (1, 0)])

    def otherwise():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    with pytest.raises(ReplicaError, match="weights of all others"):
        run_in_process(server_app(federation(), 1, clients=2), client_app(federation(build=otherwise)), 2)


def test_without_flower_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr.app", None)
    with pytest.raises(MissingExtraError, match=r"forwardgrad\[federated\]"):
        client_app(federation())
    with pytest.raises(MissingExtraError, match=r"forwardgrad\[federated\]"):
        server_app(federation(), 1, clients=1)


def test_the_rest_of_the_room_does_without_flower():
    statement = (
        "import sys, forwardgrad.federated as f; f.Spry(2); assert not any(m.startswith('flwr') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", statement], check=True)
