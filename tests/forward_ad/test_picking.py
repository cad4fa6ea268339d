"""topk, sort, max along a dimension and their kin against reverse mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import forwardgrad as fg

CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "topk": lambda x: x.topk(2).values,
    "smallest, along 0": lambda x: torch.topk(x, 2, dim=0, largest=False)[0],
    "topk by names": lambda x: torch.topk(x, k=2, dim=-2, sorted=False).values.sort(-2).values,
    "sort": lambda x: x.sort(dim=1)[0],
    "stable sort downwards": lambda x: torch.sort(x, stable=True, dim=0, descending=True).values,
    "max": lambda x: x.max(-1).values,
    "max, kept": lambda x: x.max(dim=0, keepdim=True).values,
    "min": lambda x: torch.min(x, 1)[0],
    "median": lambda x: x.median(dim=-1).values,
    "nanmedian": lambda x: torch.nanmedian(x, 0, True)[0],
    "kthvalue": lambda x: x.kthvalue(2, dim=1).values,
    "kthvalue, kept": lambda x: torch.kthvalue(x, 1, keepdim=True).values,
    "mode": lambda x: x.mode(dim=1).values,
}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_values(agrees, name, k):
    torch.manual_seed(0)
    f, x, weights = CASES[name], torch.randn(2, 4, 5).double(), torch.randn(40).double()
    agrees(lambda p: (y := f(p["x"]).flatten()) @ weights[: len(y)], {"x": x}, k)


def test_indices_are_plain_and_names_are_kept():
    def f(p):
        out = torch.topk(p["x"], 2)
        assert type(out.indices) is Tensor and out.indices.tolist() == [2, 0]
        assert type(out) is torch.return_types.topk
        return out.values.sum()

    pushed = fg.push_forward(f, {"x": torch.tensor([2.0, 1.0, 3.0])}, {"x": torch.tensor([[1.0, 10.0, 100.0]])})
    assert pushed.slopes.tolist() == [101.0]


@pytest.mark.parametrize(
    "f",
    [lambda x: x.max(), lambda x: torch.max(x, x.flip(0)).sum(), lambda x: x.median(), lambda x: x[0, 0, 0].max(0)[0]],
    ids=["of all", "of two", "median of all", "of a scalar"],
)
def test_other_forms_fall_back(agrees, f):
    torch.manual_seed(0)
    agrees(lambda p: f(p["x"]), {"x": torch.randn(2, 4, 5).double()}, fallbacks=True)
