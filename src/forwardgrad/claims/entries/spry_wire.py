"""Keys go down and slopes come up, over Flower; the server has the weights of a single process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.federated import Closed, Coordinator, Federation, Order, Spry, client_app, server_app
from forwardgrad.testing.adapted import adapted
from forwardgrad.testing.problems import cross_entropy
from forwardgrad.train.threads import threads

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Twelve adapters and a head, as MiniLM has; all clients take part in every round.

    The apps are called in one process, with the messages that they would send. Where nodes are named, a SuperLink and
    so many SuperNodes run besides, as processes of their own, and speak over the loopback interface.
    """

    clients: int = 10
    rounds: int = 6
    width: int = 64
    rows: int = 16
    nodes: int = 0


@threads(1)
def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Largest messages, and bit by bit the weights of the server and those of one process that plays all clients."""
    server: list[Tensor] = []
    figures = _in_process(setting, seed, server, tell)
    start = [p.detach() for p in federation(setting, seed).replica().params.values()]
    alone = single_process(setting, seed, range(setting.clients))
    figures["differing"] = _differing(server, alone)
    figures["moved"] = sum(float((a - b).abs().sum()) for a, b in zip(alone, start, strict=True))
    figures["weights"] = sum(p.numel() * p.element_size() for p in start)
    if setting.nodes:
        figures |= _deployed(replace(setting, clients=setting.nodes), seed, tell)
        figures["differing"] += figures["differing_deployed"]
    return Finding(figures)


def _deployed(setting: Setting, seed: int, tell: Tell) -> dict[str, float]:
    from forwardgrad.testing.deployed import run_deployed

    server, figures = run_deployed(__name__, setting, seed, setting.clients, tell)
    # Which SuperNode has which place in the rounds is decided by the random numbers that Flower gives to nodes.
    places = permutations(range(setting.clients))
    return figures | {
        "differing_deployed": min(_differing(server, single_process(setting, seed, order)) for order in places)
    }


def _in_process(setting: Setting, seed: int, server: list[Tensor], tell: Tell) -> dict[str, float]:
    from forwardgrad.testing.in_process import run_in_process

    grid = run_in_process(*apps(setting, seed, server), setting.clients)
    tell(f"{setting.rounds} rounds of {setting.clients} clients")
    figures = {}
    for way, sizes in (("down", grid.down), ("up", grid.up)):
        for part in ("payload", "message"):
            figures[f"{way}_{part}"] = float(max(getattr(size, part) for of_round in sizes for size in of_round))
    # Who was away for one round hears of it at the next.
    away = run_in_process(*apps(setting, seed, []), setting.clients, silent=[(0, setting.rounds - 2)])
    figures["away"] = away.down[-1][0].message - away.down[-1][1].message
    return figures


def federation(setting: Setting, seed: int) -> Federation:
    """What every machine makes alike."""
    return Federation(
        build=partial(adapted, 12, setting.width, setting.width, 10, seed),
        loss_fn=cross_entropy,
        batch=partial(batch, setting, seed),
        rule=Spry(),
        optimizer=lambda params: torch.optim.Adam(params, lr=1e-3),
        seed=2**62 + seed,  # as long as a random one
    )


def batch(setting: Setting, seed: int, partition: int, partitions: int, step: int) -> tuple[Tensor, Tensor]:
    """A client's own data for a round."""
    generator = Generator().manual_seed((seed * setting.rounds + step) * partitions + partition)
    x = torch.randn(setting.rows, setting.width, generator=generator)
    return x, torch.randint(10, (setting.rows,), generator=generator)


def apps(setting: Setting, seed: int, final: list[Tensor]) -> tuple[ServerApp, ClientApp]:
    """Both apps; the server's weights after the last round are put into `final`."""

    def after_round(coordinator: Coordinator, loss: float) -> None:
        if coordinator.replica.step == setting.rounds:
            final.extend(p.detach().clone() for p in coordinator.replica.params.values())

    made = federation(setting, seed)
    return server_app(made, setting.rounds, clients=setting.clients, after_round=after_round), client_app(made)


def _differing(a: list[Tensor], b: list[Tensor]) -> int:
    return sum(int((x != y).sum()) for x, y in zip(a, b, strict=True))


def single_process(setting: Setting, seed: int, partitions: Sequence[int]) -> list[Tensor]:
    """The weights of one process that plays all clients one after the other, without a message.

    Args:
        setting: of the claim.
        seed: of weights and data.
        partitions: whose data each place of a round has.
    """
    made = federation(setting, seed)
    replica = made.replica()
    for t in range(setting.rounds):
        orders = [Order(made.seed, t, i, setting.clients, 0) for i in range(setting.clients)]
        each = [replica.measure(made.loss_fn, made.batch(partitions[o.slot], o.slots, t), o) for o in orders]
        replica.follow(Closed(tuple(a.slopes for a in each), tuple(a.examples for a in each)))
    return [p.detach() for p in replica.params.values()]


def draw(record: ClaimRecord) -> Figure:
    """Bytes of a message, ours and Flower's, beside the bounds and what sending weights would take.

    Args:
        record: of this claim.
    """
    from matplotlib.figure import Figure

    figures = {name: values[0] for name, values in record.figures().items()}
    figure = Figure(figsize=(7, 2.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, bound) in enumerate((("down", 500), ("up", 200))):
        ours, whole = figures[f"{name}_payload"], figures[f"{name}_message"]
        axes.barh(place, ours, height=0.5, color="#0072B2", label="ours" if place == 0 else None)
        axes.barh(place, whole - ours, 0.5, ours, color="#bdbdbd", label="Flower's envelope" if place == 0 else None)
        axes.plot([bound] * 2, [place - 0.36, place + 0.36], color="#D55E00", lw=1.6)
        axes.annotate(f"{whole:.0f}", (whole, place), (-5, 0), textcoords="offset points", ha="right", va="center")
    axes.set_yticks((0, 1), ("server to client", "client to server"))
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set(title=f"Bytes a client and round; the trained weights are {figures['weights']:,.0f}")
    axes.set_xlabel("marks: the bound", loc="left")
    axes.legend(frameon=False, loc="lower right")
    return figure


CLAIM = Claim(
    id="spry-wire",
    paper="2405.15551",
    sentence="In per-iteration mode a client gets a key and sends scalars, and the server steps as if it had computed "
    "the clients' gradients itself.",
    published="",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(nodes=2)},
    checks=(
        Check("down_message", at_most=500),
        Check("up_message", at_most=200),
        Check("differing", at_most=0),
        Check("moved", at_least=1e-3),
    ),
    headline="at most {down_message:.0f} bytes down and {up_message:.0f} up a client and round, of which "
    "{down_payload:.0f} and {up_payload:.0f} are ours and the rest is Flower's envelope, where the trained weights are "
    "{weights:.0f}; {away:.0f} more for a round that a client was away; {differing:.0f} weights differ in any bit",
    depends=(
        "forwardgrad.federated.spry", "forwardgrad.federated.split", "forwardgrad.federated.replica",
        "forwardgrad.federated.coordinator", "forwardgrad.federated.flower", "forwardgrad.testing.adapted",
        "forwardgrad.testing.in_process",
    ),
    packages={"flwr": "federated"},
    draw=draw,
)  # fmt: skip
