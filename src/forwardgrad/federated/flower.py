"""The same over Flower: a ClientApp and a ServerApp of its message API, for `flwr run`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from forwardgrad.errors import InputError, MissingExtraError, ReplicaError
from forwardgrad.federated.coordinator import Coordinator
from forwardgrad.federated.replica import Replica
from forwardgrad.federated.rounds import Answer, Closed, Order
from forwardgrad.federated.spry import Spry

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

_RECORD = "spry"
_REPLICA = "spry-replica"
_BEHIND = "spry-behind"
_PATIENCE = 0.2  # seconds between two looks for nodes


@dataclass(frozen=True)
class Federation:
    """What both apps are made from, and every machine must make alike.

    Args:
        build: the model, with the same weights each time and everywhere; trained are those with ``requires_grad``.
        loss_fn: ``loss_fn(model, *batch)``.
        batch: ``batch(partition, partitions, step)``, a client's data for a round; the first tensor has an example
            a row. Called on clients only.
        rule: who measures what.
        optimizer: makes the one that every replica steps with, e.g. ``lambda p: torch.optim.SGD(p, lr=0.1)``.
        seed: of the run's keys, and of who takes part in a round.
    """

    build: Callable[[], nn.Module]
    loss_fn: Callable[..., Any]
    batch: Callable[[int, int, int], tuple[Any, ...]]
    rule: Spry
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
    seed: int = 0

    def replica(self) -> Replica:
        """A fresh one, at step 0."""
        return Replica(self.build(), self.rule, self.optimizer, self.seed)


def client_app(federation: Federation) -> ClientApp:
    """A Flower ClientApp that answers orders with slopes.

    Its replica lives in the node's own `context.state`, which does not leave the node. Of the node's configuration it
    reads `partition-id` and `num-partitions`.

    Args:
        federation: as on the server.

    Raises:
        MissingExtraError: flwr is not installed.
        ReplicaError: on a message, a replica whose weights are not the server's.
    """
    _found()
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()
    kept: list[tuple[Replica, bytes]] = []  # one model a process, whatever nodes it plays

    @app.train()
    def train(message: Message, context: Context) -> Message:
        order = read_order(message.content)
        if not kept:
            replica = federation.replica()
            kept.append((replica, replica.to_bytes()))
        replica, fresh = kept[0]
        state = context.state.config_records.get(_REPLICA)
        replica.restore(bytes(state["bytes"]) if state is not None else fresh)
        if order.step - len(order.missed) > replica.step:  # this node forgot, so that the server must tell it again
            return Message(RecordDict({_BEHIND: ConfigRecord({"step": replica.step})}), reply_to=message)
        replica.catch_up(order)
        partition, partitions = (
            int(context.node_config.get(k, d)) for k, d in (("partition-id", 0), ("num-partitions", 1))
        )
        answer = replica.measure(federation.loss_fn, federation.batch(partition, partitions, order.step), order)
        context.state[_REPLICA] = ConfigRecord({"bytes": replica.to_bytes()})
        return Message(answer_record(answer), reply_to=message)

    return app


def server_app(
    federation: Federation,
    rounds: int,
    *,
    clients: int,
    per_round: int | None = None,
    after_round: Callable[[Coordinator, float], None] | None = None,
    timeout: float = 600.0,
) -> ServerApp:
    """A Flower ServerApp that sends keys and steps by the slopes that come back.

    Args:
        federation: as on the clients.
        rounds: steps to take.
        clients: nodes to wait for.
        per_round: how many of them take part in a round, drawn from the seed; None for all.
        after_round: hears of the coordinator, whose replica holds the weights, and the clients' mean loss.
        timeout: seconds to wait for nodes, and for the answers of a round; who is later is left out of it.

    Raises:
        InputError: counts below 1, or more a round than there are.
        MissingExtraError: flwr is not installed.
        ReplicaError: while it runs, too few nodes, or no answer in a round.
    """
    _found()
    from flwr.app import Message
    from flwr.serverapp import ServerApp

    per_round = clients if per_round is None else per_round
    if min(rounds, clients, per_round) < 1 or per_round > clients:
        found = f"rounds={rounds}, clients={clients}, per_round={per_round}"
        raise InputError("a federation needs rounds, clients and at most all of them a round", found, "mend the counts")
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        coordinator = Coordinator(federation.replica())
        nodes = _awaited(grid, clients, timeout)
        for step in range(rounds):
            chosen = random.Random(f"{federation.seed} {step}").sample(range(clients), per_round)
            orders = coordinator.orders([nodes[i] for i in sorted(chosen)])
            sent = [
                Message(order_record(order), dst_node_id=node, message_type="train") for node, order in orders.items()
            ]
            answers = dict(_answers(coordinator, grid.send_and_receive(sent, timeout=timeout)))
            loss = coordinator.close(orders, answers)
            if after_round is not None:
                after_round(coordinator, loss)

    return app


def _awaited(grid: Grid, clients: int, timeout: float) -> list[int]:
    end = time.monotonic() + timeout
    while len(nodes := sorted(grid.get_node_ids())) < clients:
        if time.monotonic() > end:
            found = f"{len(nodes)} after {timeout:g} s"
            raise ReplicaError(f"a federation needs its {clients} nodes", found, "start them, or ask for fewer")
        time.sleep(_PATIENCE)
    return nodes[:clients]


def _answers(coordinator: Coordinator, replies: Iterable[Message]) -> Iterable[tuple[int, Answer]]:
    for reply in replies:
        if reply.has_error():
            continue
        behind = reply.content.config_records.get(_BEHIND)
        if behind is not None:
            coordinator.behind(reply.metadata.src_node_id, int(behind["step"]))
        else:
            yield reply.metadata.src_node_id, read_answer(reply.content)


def order_record(order: Order) -> RecordDict:
    """An order as Flower carries it: numbers in one ConfigRecord, the missed rounds one after the other.

    Names are short, since they travel with every message: c the slopes, K how many each client sent, n its examples.

    Args:
        order: of one client.
    """
    from flwr.app import ConfigRecord, RecordDict

    record: dict[str, Any] = {"seed": order.seed, "step": order.step, "slot": order.slot, "slots": order.slots}
    record["check"] = order.check
    if order.missed:
        every = [c for closed in order.missed for c in closed.slopes]
        record["clients"] = [len(closed.slopes) for closed in order.missed]
        record["K"] = [len(c) for c in every]
        record["c"] = [x for c in every for x in c]
        record["n"] = [n for closed in order.missed for n in closed.examples]
    return RecordDict({_RECORD: ConfigRecord({name: value for name, value in record.items() if value != []})})


def read_order(content: RecordDict) -> Order:
    """What `order_record` made.

    Args:
        content: of a message.

    Raises:
        InputError: it is no order.
    """
    r = _numbers(content)
    slopes, examples, counts = (iter(_row(r, name)) for name in ("c", "n", "K"))
    missed = []
    for clients in _row(r, "clients"):
        each = tuple(tuple(next(slopes) for _ in range(next(counts))) for _ in range(clients))
        missed.append(Closed(each, tuple(next(examples) for _ in range(clients))))
    return Order(r["seed"], r["step"], r["slot"], r["slots"], r["check"], tuple(missed))


def answer_record(answer: Answer) -> RecordDict:
    """An answer as Flower carries it.

    Args:
        answer: of one client.
    """
    from flwr.app import MetricRecord, RecordDict

    numbers: dict[str, Any] = {"loss": answer.loss, "n": answer.examples}
    numbers |= {"c": list(answer.slopes)} if answer.slopes else {}
    return RecordDict({_RECORD: MetricRecord(numbers)})


def read_answer(content: RecordDict) -> Answer:
    """What `answer_record` made.

    Args:
        content: of a message.

    Raises:
        InputError: it is no answer.
    """
    r = _numbers(content)
    return Answer(tuple(_row(r, "c")), r["loss"], r["n"])


def _numbers(content: RecordDict) -> Mapping[str, Any]:
    record = content.get(_RECORD)
    if record is None:
        found = ", ".join(content) or "nothing"
        raise InputError(
            f"a message needs a record `{_RECORD}`", found, "run the ClientApp and ServerApp of one version"
        )
    return record


def _row(record: Mapping[str, Any], name: str) -> Sequence[Any]:
    return record.get(name, ())  # Flower has no empty lists


def _found() -> None:
    try:
        import flwr.app  # noqa: F401 # the message API came with 1.21
    except ImportError as error:
        cure = 'pip install "forwardgrad[federated]"'
        raise MissingExtraError(
            "a federation over Flower needs flwr", f"no package {error.name or error}", cure
        ) from error
