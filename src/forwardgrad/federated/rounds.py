"""What crosses the wire: an order down, an answer up, and the rounds that a client has missed."""

from __future__ import annotations

from typing import NamedTuple


class Answer(NamedTuple):
    """What a client sends up.

    Args:
        slopes: [K] numbers; none where it had no layer.
        loss: of its batch.
        examples: in its batch, its weight where a layer has several clients.
    """

    slopes: tuple[float, ...]
    loss: float
    examples: int


class Closed(NamedTuple):
    """A finished round: with the key all that is needed to take its step.

    Args:
        slopes: K numbers from each client, none from one that did not answer.
        examples: of each.
    """

    slopes: tuple[tuple[float, ...], ...]
    examples: tuple[int, ...]


class Order(NamedTuple):
    """What the server sends down.

    Args:
        seed: of the run.
        step: the round.
        slot: the client's place in it, from 0.
        slots: clients in it.
        check: 56 bits of the weights that all have now, so that a client with others stops at once.
        missed: the rounds up to this one that this client has not been told of.
    """

    seed: int
    step: int
    slot: int
    slots: int
    check: int
    missed: tuple[Closed, ...] = ()
