"""The server's part: who is told what, and the step that follows from what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forwardgrad.errors import InputError, ReplicaError
from forwardgrad.federated.replica import Replica
from forwardgrad.federated.rounds import Answer, Closed, Order


class Coordinator:
    """Remembers every finished round, and how far each client has been told.

    Slopes are a few bytes a client and round, so that the whole history of a run is small; a client that joins late
    gets all of it, once.

    Args:
        replica: the server's own, at step 0.
    """

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.history: list[Closed] = []
        self.told: dict[int, int] = {}

    def orders(self, clients: Sequence[int]) -> dict[int, Order]:
        """The orders of a round.

        Args:
            clients: who takes part, in the order of their places.

        Raises:
            InputError: none, or one of them twice.
        """
        if not clients or len(set(clients)) != len(clients):
            raise InputError("a round needs clients, each once", f"{list(clients)}", "choose them without repetition")
        seed, step, check = self.replica.seed, self.replica.step, self.replica.check()
        missed = {client: tuple(self.history[self.told.get(client, 0) :]) for client in clients}
        return {c: Order(seed, step, slot, len(clients), check, missed[c]) for slot, c in enumerate(clients)}

    def close(self, orders: Mapping[int, Order], answers: Mapping[int, Answer]) -> float:
        """Takes the step of a round, and gives the mean loss of those who answered, weighted by their examples.

        Args:
            orders: of the round.
            answers: by client; who is missing has no part in the step, and its layers stand still if they were its
                alone.

        Raises:
            ReplicaError: nobody answered.
        """
        if not answers:
            cure = "look at the clients' logs: what they refuse is said there"
            raise ReplicaError("a round needs an answer", f"none from {len(orders)} clients", cure)
        none = Answer((), 0.0, 0)
        given = [answers.get(client, none) for client in orders]
        closed = Closed(tuple(a.slopes for a in given), tuple(a.examples for a in given))
        self.replica.follow(closed)
        self.history.append(closed)
        self.told |= {client: orders[client].step for client in answers}
        return sum(a.loss * a.examples for a in given) / sum(a.examples for a in given)

    def behind(self, client: int, step: int) -> None:
        """A client lost what it had: from now on it is told again.

        Args:
            client: which.
            step: where it is.
        """
        self.told[client] = step
