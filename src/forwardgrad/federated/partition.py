"""Labelled examples shared out among clients, alike or unlike."""

from __future__ import annotations

from math import inf

import numpy as np
import torch
from torch import Tensor

from forwardgrad.errors import InputError


def dirichlet_partition(labels: Tensor, clients: int, alpha: float, seed: int) -> list[Tensor]:
    """Rows of each client: of every class, shares drawn from a Dirichlet distribution.

    Args:
        labels: [N], whole numbers.
        clients: how many, at most N.
        alpha: the smaller, the more unlike: at 0.1 most classes lie with one or two clients; infinite shares evenly.
        seed: of the draw.

    Returns:
        [clients] tensors of rows, each of at least one.

    Raises:
        InputError: fewer examples than clients, alpha not positive.

    References:
        Hsu, Qi, Brown (2019), Measuring the effects of non-identical data distribution for federated visual
        classification.
    """
    if not 1 <= clients <= len(labels):
        found = f"{clients} clients and {len(labels)} examples"
        raise InputError("a partition needs an example for each client", found, "use fewer clients")
    if not alpha > 0:
        raise InputError("a partition needs alpha > 0", repr(alpha), "use 0.1 for unlike clients, inf for equal shares")
    generator = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in labels.unique():
        rows = generator.permutation((labels == label).nonzero().flatten().numpy())
        shares = np.full(clients, 1 / clients) if alpha == inf else generator.dirichlet(np.full(clients, alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for part, some in zip(parts, np.split(rows, cuts), strict=True):
            part.extend(some.tolist())
    for part in parts:  # nobody is left with nothing
        if not part:
            part.append(max(parts, key=len).pop())
    return [torch.tensor(sorted(part)) for part in parts]
