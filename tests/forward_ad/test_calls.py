"""Calls in every form PyTorch takes: arguments by other names, scalars, vectors, empty tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.dual import Dual

D = torch.float64
X = torch.linspace(-1, 1, 16, dtype=D).view(4, 4)


def spread(y: Tensor) -> Tensor:
    """A scalar that sees every entry differently."""
    return (y * torch.arange(y.numel(), dtype=D).view(y.shape).cos()).sum()


BY_NUMPY_NAMES = {
    "sum": lambda w: w.sum(axis=1, keepdims=True),
    "mean": lambda w: w.mean(axis=0),
    "cat": lambda w: torch.cat([w, w * 2], axis=1),
    "stack": lambda w: torch.stack([w, w * 2], axis=1),
    "softmax": lambda w: torch.softmax(w, axis=1),
    "logsumexp": lambda w: w.logsumexp(axis=1),
    "unsqueeze": lambda w: torch.unsqueeze(w, axis=1),
    "squeeze": lambda w: w[None].squeeze(axis=0),
    "cumsum": lambda w: w.cumsum(axis=0),
}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", BY_NUMPY_NAMES)
def test_numpy_names_reach_the_rule(agrees, name, k):
    agrees(lambda p: spread(BY_NUMPY_NAMES[name](p["w"])), {"w": torch.randn(4, 4, dtype=D)}, k)


BY_OTHER_NAMES = {
    "flip": lambda w: torch.flip(w, dims=[0]),
    "permute": lambda w: torch.permute(w, dims=(1, 0)),
    "matmul": lambda w: torch.matmul(input=X, other=w),
    "bmm": lambda w: torch.bmm(input=w[None], mat2=w[None]),
    "exp": lambda w: torch.exp(input=w),
    "neg": lambda w: torch.neg(input=w),
    "repeat": lambda w: w.repeat(repeats=(2, 1)),
    "tensor_split": lambda w: w.tensor_split(indices=(1,))[1],
}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", BY_OTHER_NAMES)
def test_names_that_no_rule_knows_fall_back(agrees, name, k):
    agrees(lambda p: spread(BY_OTHER_NAMES[name](p["w"])), {"w": torch.randn(4, 4, dtype=D)}, k, fallbacks=True)


def test_a_wrong_call_says_what_pytorch_says(agrees):
    with pytest.raises(TypeError, match="nonsense"):
        agrees(lambda p: p["w"].sum(nonsense=1), {"w": torch.randn(4, 4, dtype=D)}, fallbacks=True)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("reduce", [torch.sum, torch.mean], ids=["sum", "mean"])
def test_reductions_over_all_that_keep_the_dimensions(agrees, reduce, k):
    agrees(lambda p: spread(reduce(p["w"], None, True) * X), {"w": torch.randn(4, 4, dtype=D)}, k)


SCALARS = {
    "cumsum": lambda w: w.cumsum(0),
    "gather": lambda w: w.gather(0, torch.tensor(0)),
    "index_select": lambda w: w.index_select(0, torch.tensor([0])),
    "transpose": lambda w: w.transpose(0, 0) * 2,
    "logsumexp": lambda w: w.logsumexp(0),
    "prelu": lambda w: F.prelu(w, torch.tensor(0.5, dtype=D)),
    "shift of rrelu": lambda w: F.rrelu(w - 10),
}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", SCALARS)
def test_scalars(agrees, name, k):
    agrees(lambda p: spread(SCALARS[name](p["w"])), {"w": torch.randn((), dtype=D)}, k, fallbacks=True)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_vector_by_a_batch_of_as_many_matrices_as_tangents(agrees, k):
    params = {"v": torch.randn(2, dtype=D), "t": torch.randn(2, 2, 2, dtype=D), "m": torch.randn(2, 2, dtype=D)}
    agrees(lambda p: spread(p["v"] @ p["t"]) + spread(p["t"] @ p["v"]), params, k)
    agrees(lambda p: spread(p["v"] @ p["m"]) + spread(p["m"] @ p["v"]) + p["v"] @ p["v"], params, k)
    agrees(lambda p: spread(p["v"] @ X[:2, :2].expand(2, 2, 2)), params, k)


EMPTIES = {
    "matmul over nothing": lambda w: (w[:, :0] @ w[:0]) + w,
    "addmm over nothing": lambda w: torch.addmm(w, w[:, :0], w[:0]),
    "linear of nothing": lambda w: F.linear(w[:0], w).sum() + w,
    "cat of an empty vector and a constant": lambda w: torch.cat([w[0, :0], X[0]]) + w,
    "pad of nothing": lambda w: F.pad(w[:0, None], (1, 1), "replicate").sum() + w,
}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", EMPTIES)
def test_empties(agrees, name, k):
    agrees(lambda p: spread(EMPTIES[name](p["w"])), {"w": torch.randn(4, 4, dtype=D)}, k, fallbacks=True)


def test_running_statistics_that_carry_tangents_are_constants(agrees):
    def f(p):
        mean, var = torch.zeros(4, dtype=D), torch.ones(4, dtype=D)
        if type(p["m"]) is Dual:  # stock refuses such statistics in reverse mode
            mean.copy_(p["m"])
        else:
            mean.copy_(p["m"].detach())
        return spread(F.batch_norm(p["x"], mean, var, training=False)) + p["m"].sum()

    agrees(f, {"x": torch.randn(5, 4, dtype=D), "m": torch.randn(4, dtype=D)})


COMPLEX = {
    "normalize": lambda z: F.normalize(z, dim=1),
    "sgn": lambda z: z.sgn(),
    "sgn of a real": lambda z: z * z.real.sgn(),
}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_numbers(agrees, name, k):
    def f(p):
        return spread(torch.view_as_real(COMPLEX[name](torch.view_as_complex(p["w"]))))

    agrees(f, {"w": torch.randn(3, 4, 2, dtype=D)}, k, fallbacks=True)
