"""A factored gradient has the values of the dense one, whatever is done to it."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from forwardgrad.errors import InputError
from forwardgrad.gradient import FactoredGradient

SHAPES = [(6, 9), (5, 3, 2, 2), (7,)]


def by_definition(grad: FactoredGradient) -> Tensor:
    return torch.einsum("mr,nr,r->mn", grad.left, grad.right, grad.weights.to(grad.dtype)).reshape(grad.shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_looks_like_the_gradient_it_stands_for(make, shape, dtype) -> None:
    grad = make(shape, dtype=dtype)
    param = nn.Parameter(torch.zeros(shape, dtype=dtype))
    param.grad = grad
    assert param.grad is grad
    assert (grad.shape, grad.dtype, grad.device) == (param.shape, dtype, param.device)
    assert grad.is_contiguous() and grad.densify().is_contiguous() and not grad.is_sparse
    torch.testing.assert_close(
        grad.densify(), by_definition(grad), rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2
    )
    assert repr(grad).startswith("FactoredGradient(")


STAYS_FACTORED = {
    "mul": lambda g, h: g * 2.5,
    "rmul": lambda g, h: 2 * g,
    "mul by a scalar tensor": lambda g, h: torch.tensor(0.3) * g,
    "div": lambda g, h: g / 3,
    "neg": lambda g, h: -g,
    "add": lambda g, h: g.add(h, alpha=0.5),
    "sub": lambda g, h: g - h,
    "clone": lambda g, h: g.clone(),
    "detach": lambda g, h: g.detach(),
    "to": lambda g, h: g.to(torch.float64).to(torch.float32),
    "mul_": lambda g, h: g.mul_(torch.tensor(0.5)),
    "div_": lambda g, h: g.div_(4),
    "neg_": lambda g, h: g.neg_(),
    "add_": lambda g, h: g.add_(h, alpha=-2),
    "sub_": lambda g, h: g.sub_(h),
    "zero_": lambda g, h: g.zero_(),
    "zero_ and add_": lambda g, h: g.zero_().add_(h),
    "copy_": lambda g, h: g.copy_(h),
    "norm": lambda g, h: torch.linalg.vector_norm(g),
    "method norm": lambda g, h: g.norm(),
}


@pytest.mark.parametrize("name", STAYS_FACTORED)
def test_the_hot_operations_stay_factored(make, close, name) -> None:
    operation = STAYS_FACTORED[name]
    grad, other = make((8, 20), seed=1), make((8, 20), seed=2)
    expected = operation(grad.densify().clone(), other.densify())
    counts = grad.densified, other.densified
    got = operation(grad, other)
    assert (grad.densified, other.densified) == counts
    assert isinstance(got, FactoredGradient) or got.dim() == 0
    assert (got is grad) == name.endswith("_") or name in ("zero_ and add_", "copy_", "clone", "detach")
    close(got, expected)


LEAVES_THE_FORM = {
    "exp": lambda g: g.exp(),
    "isfinite": lambda g: torch.isfinite(g).all(),
    "eq": lambda g: (g == g).all(),
    "sum": lambda g: g.sum(),
    "max norm": lambda g: torch.linalg.vector_norm(g, float("inf")),
    "norm along a dimension": lambda g: torch.linalg.vector_norm(g, dim=0),
    "complex factor": lambda g: g * 1j,
    "matmul": lambda g: g @ g.T,
    "indexing": lambda g: g[1:3, 0],
    "view": lambda g: g.view(-1),
    "cat": lambda g: torch.cat([g, torch.ones(1, 9), g]),
    "where": lambda g: torch.where(g > 0, g, 0),
    "add broadcast": lambda g: g + torch.ones(9),
    "sub dense": lambda g: torch.ones(6, 9) - g,
    "add dense": lambda g: g.add(torch.ones(6, 9), alpha=0.5),
    "foreach exp": lambda g: torch._foreach_exp([g])[0],
    "to long": lambda g: g.to(torch.long),
    "lists": lambda g: torch.tensor(g.tolist()),
    "numpy": lambda g: torch.from_numpy(g.numpy()),
    "clamp_": lambda g: g.clamp_(-0.1, 0.1),
    "add_ dense": lambda g: g.add_(torch.ones(6, 9)),
    "copy_ dense": lambda g: g.copy_(torch.ones(6, 9)),
}


@pytest.mark.parametrize("name", LEAVES_THE_FORM)
def test_every_other_operation_is_the_dense_one(make, close, name) -> None:
    grad = make()
    expected = LEAVES_THE_FORM[name](grad.densify().clone())
    close(LEAVES_THE_FORM[name](grad), expected)


@given(st.lists(st.sampled_from([*STAYS_FACTORED, *LEAVES_THE_FORM]), max_size=6))
def test_any_sequence_of_operations_leaves_the_dense_values(make, close, names) -> None:
    grad, other = make(seed=1), make(seed=2)
    twin, its = grad.densify().clone(), other.densify()
    for name in names:
        if name in STAYS_FACTORED:
            STAYS_FACTORED[name](grad, other), STAYS_FACTORED[name](twin, its)
        else:
            LEAVES_THE_FORM[name](grad), LEAVES_THE_FORM[name](twin)
        close(grad, twin)


def test_a_write_through_an_alias_or_a_view_is_a_write(make, close) -> None:
    grad = make((8, 20))
    expected = grad.densify().clone()
    grad.detach().mul_(3)
    grad.data.add_(grad.clone())
    close(grad, 6 * expected)
    assert grad.is_factored
    grad.view(-1)[0] = 7.0
    grad[1:, 0].zero_()
    expected = 6 * expected
    expected[0, 0], expected[1:, 0] = 7.0, 0.0
    close(grad, expected)
    assert not grad.is_factored
    grad.mul_(2).add_(make((8, 20), seed=5))
    close(grad, 2 * expected + make((8, 20), seed=5).densify())


def test_the_callers_factors_are_never_written(make) -> None:
    grad = make()
    kept = [factor.clone() for factor in (grad.left, grad.right, grad.weights)]
    given_ = grad.left, grad.right, grad.weights
    grad.mul_(2).add_(make(seed=3)).neg_().zero_().add_(make(seed=4)).clamp_(0, 1)
    assert all(torch.equal(a, b) for a, b in zip(kept, given_, strict=True))


def test_zeros_like_and_its_kin_look_only(make) -> None:
    grad = make((4, 3, 2, 2))
    for made in (
        torch.zeros_like(grad),
        torch.empty_like(grad),
        torch.full_like(grad, 2.0),
        grad.new_zeros(3, 2),
    ):
        assert type(made) is Tensor and made.is_contiguous() and made.dtype == grad.dtype
    assert torch.zeros_like(grad).shape == grad.shape and grad.new_zeros(3, 2).shape == (3, 2)
    assert grad.densified == 0


def test_a_sum_keeps_the_smaller_form(make, close) -> None:
    grad = make((6, 9), rank=1)
    for seed in range(8):
        grad.add_(make((6, 9), rank=1, seed=seed))
        assert not grad.is_factored or grad.left.numel() + grad.right.numel() <= grad.numel()
    assert not grad.is_factored
    close(grad, make(rank=1).densify() + sum(make(rank=1, seed=seed).densify() for seed in range(8)))


def test_the_norm_is_exact_where_the_factors_nearly_cancel() -> None:
    left, right = torch.randn(30, 1), torch.randn(40, 1)
    nearly = torch.cat([right, right * (1 + 1e-4)], dim=1)
    grad = FactoredGradient(left.expand(30, 2), nearly, torch.tensor([1.0, -1.0]), (30, 40))
    exact = (left.double() * (right.double() - nearly[:, 1:].double()).T).norm()
    assert abs(float(grad.norm()) / float(exact) - 1) < 1e-6


def test_scaling_half_precision_rounds_once(make) -> None:
    grad = make(dtype=torch.bfloat16)
    scaled = grad.clone()
    for _ in range(50):
        scaled.mul_(1.01)
    expected = by_definition(grad.to(torch.float64)) * 1.01**50
    torch.testing.assert_close(scaled.densify().double(), expected, rtol=2e-2, atol=2e-2)


def test_factors_that_do_not_fit_are_refused(make) -> None:
    left, right, weights = torch.ones(6, 2), torch.ones(9, 2), torch.ones(2)
    for bad in ((left, right, torch.ones(3)), (left.T, right, weights), (left, right.double(), weights)):
        with pytest.raises(InputError, match=r"factors of shapes"):
            FactoredGradient(*bad, (6, 9))
    dense = make().exp_()
    with pytest.raises(InputError, match="still factored"):
        _ = dense.left


@pytest.mark.parametrize("dense", [False, True])
def test_copies_and_files(make, close, dense) -> None:
    grad = make()
    if dense:
        grad.abs_()
    file = io.BytesIO()
    torch.save({"grad": grad}, file)
    file.seek(0)
    copies = [copy.deepcopy(grad), pickle.loads(pickle.dumps(grad)), torch.load(file)["grad"]]
    for copied in copies:
        close(copied, grad.densify())
        copied.mul_(2)
    close(grad, make().densify().abs() if dense else make().densify())
    assert isinstance(copies[0], FactoredGradient)


def test_a_pickle_holds_the_factors_and_not_the_draw_they_come_from() -> None:
    draw = torch.ones(10_000)
    grad = FactoredGradient(draw[:6].view(6, 1), draw[6:15].view(9, 1), torch.ones(1), (6, 9))
    assert len(pickle.dumps(grad)) < 4000
