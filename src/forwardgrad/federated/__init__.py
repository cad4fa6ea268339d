"""Training over wires that carry keys and slopes: clients push tangents, and every replica rebuilds the same update."""

from __future__ import annotations

from forwardgrad.federated.coordinator import Coordinator
from forwardgrad.federated.flower import Federation, client_app, server_app
from forwardgrad.federated.partition import dirichlet_partition
from forwardgrad.federated.replica import Replica
from forwardgrad.federated.rounds import Answer, Closed, Order
from forwardgrad.federated.split import EveryLayer, LayerSplit, Split
from forwardgrad.federated.spry import Spry

__all__ = [
    "Answer",
    "Closed",
    "Coordinator",
    "EveryLayer",
    "Federation",
    "LayerSplit",
    "Order",
    "Replica",
    "Split",
    "Spry",
    "client_app",
    "dirichlet_partition",
    "server_app",
]
