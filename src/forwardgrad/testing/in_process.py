"""A Flower federation inside one process: real apps and real messages, each of them serialised on its way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

_RUN = 2**62  # numbers and names as long as Flower's own
_FIRST_NODE = 2**63
_NAME = "{:064x}"


class Bytes(NamedTuple):
    """One message on its way.

    Args:
        payload: of its records, as Flower serialises them.
        message: payload and envelope: who, to whom, when, of which run, in answer to what.
    """

    payload: int
    message: int


class InProcess:
    """Stands in for Flower's Grid: calls the ClientApp at once, with what is left of a message after its journey.

    Args:
        app: the clients'.
        nodes: how many there are.
        silent: (node, round) pairs that never answer.
    """

    def __init__(self, app: ClientApp, nodes: int, silent: Iterable[tuple[int, int]] = ()) -> None:
        from flwr.app import Context, RecordDict

        self.app, self.silent = app, frozenset(silent)
        self.nodes: dict[int, Context] = {}
        for i in range(nodes):
            config = {"partition-id": i, "num-partitions": nodes}
            self.nodes[_FIRST_NODE + i] = Context(_RUN, _FIRST_NODE + i, config, RecordDict(), {})
        self.down: list[list[Bytes]] = []
        self.up: list[list[Bytes]] = []

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        down, up, replies = [], [], []
        for message in messages:
            size, arrived = _carried(message, len(self.down))
            down.append(size)
            node = message.metadata.dst_node_id
            if (node - _FIRST_NODE, len(self.down)) not in self.silent:
                size, reply = _carried(self.app(arrived, self.nodes[node]), len(self.down))
                up.append(size)
                replies.append(reply)
        self.down.append(down)
        self.up.append(up)
        return replies


def run_in_process(
    server: ServerApp, client: ClientApp, nodes: int, silent: Iterable[tuple[int, int]] = ()
) -> InProcess:
    """Runs a ServerApp to its end against that many nodes of a ClientApp; exceptions of either come through.

    Args:
        server: the server's.
        client: the clients'.
        nodes: how many there are.
        silent: (node, round) pairs that never answer.

    Returns:
        The grid, with the bytes of every message, by round.
    """
    from flwr.app import Context, RecordDict

    grid = InProcess(client, nodes, silent)
    with _identity():
        server(grid, Context(_RUN, 1, {}, RecordDict(), {}))
    return grid


@contextmanager
def _identity() -> Iterator[None]:
    """Flower's runtime tells a process who it is before a message is made in it; here there is no runtime."""
    from flwr.supercore.task_identity import TaskIdentity

    before = TaskIdentity._run_id, TaskIdentity._task_id, TaskIdentity._node_id
    TaskIdentity._run_id, TaskIdentity._task_id, TaskIdentity._node_id = _RUN, 1, 1
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._task_id, TaskIdentity._node_id = before


def _carried(message: Message, round_: int) -> tuple[Bytes, Message]:
    """A message as bytes, and what is made of them at the other end."""
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.message_pb2 import Message as Proto

    proto = message_to_proto(message)
    data = proto.SerializeToString()
    arrived = message_from_proto(Proto.FromString(data))
    arrived.metadata.__dict__["_message_id"] = _NAME.format(round_)  # its checksum, which the receiver knows
    return Bytes(len(proto.content.SerializeToString()), len(data)), arrived


__all__ = ["Bytes", "InProcess", "run_in_process"]
