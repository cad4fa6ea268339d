"""Bad input: one typed error that names the thing, the place and the cure, and a model that is as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import (
    ForwardGradError,
    InputError,
    LostTangentError,
    NonFiniteError,
    ParameterChangedError,
    RungError,
    StrictError,
    UnsupportedError,
)
from forwardgrad.methods import SPSA, Backprop, CheckpointedBackprop, ControlVariate, ForwardGradient
from forwardgrad.module.admission import holds_nan

EVERY = [
    ForwardGradient(2),
    ForwardGradient(2, chunk_size=1),
    SPSA(),
    Backprop(),
    CheckpointedBackprop(),
    ControlVariate(),
]
FORWARD = [ForwardGradient(2), ForwardGradient(2, "gaussian"), ForwardGradient(2, chunk_size=1), ControlVariate()]


def of_methods(methods):
    return pytest.mark.parametrize("method", methods, ids=repr)


def small():
    """With batch statistics in training, and a gradient from before: both must survive."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).double()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    return model, (torch.randn(9, 5).double(), torch.randint(3, (9,)))


def loss_fn(model, x, y):
    return F.cross_entropy(model(x), y)


def everything(model):
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    return [(id(t), t.detach().clone()) for t in tensors]


def refused(error, path, method, model, loss, *batch, match="", **options):
    """Calls, and checks type, path, sentence and state."""
    before = everything(model)
    with pytest.raises(error, match=match or None) as caught:
        fg.backward(copy.deepcopy(method), model, loss, *batch, **options)
    assert type(caught.value) is error
    assert caught.value.path == path
    needs, found, cure = caught.value.needs, caught.value.found, caught.value.cure
    assert str(caught.value).startswith(f"{needs}; found {found}") and str(caught.value).endswith(f"; {cure}.")
    after = everything(model)
    assert len(before) == len(after)
    assert all(i == j and torch.equal(a, b) for (i, a), (j, b) in zip(before, after, strict=True))


# the loss


@of_methods(EVERY)
@pytest.mark.parametrize("reduce", [lambda loss: loss, lambda loss: loss.tolist()], ids=["vector", "list"])
def test_a_loss_that_is_not_one_number(method, reduce):
    model, batch = small()
    vector = lambda m, x, y: reduce(F.cross_entropy(m(x), y, reduction="none"))
    refused(InputError, "loss", method, model, vector, *batch, match="loss.mean")


@of_methods(EVERY)
def test_a_loss_that_counts(method):
    model, batch = small()
    count = lambda m, x, y: (m(x).argmax(1) != y).sum()
    refused(InputError, "loss", method, model, count, *batch, match="floating point")


@of_methods(EVERY)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite(method, value):
    model, batch = small()
    refused(NonFiniteError, "loss", method, model, lambda m, x, y: loss_fn(m, x, y) * value, *batch)


@of_methods(FORWARD)
def test_slopes_that_are_not_finite(method):
    """A square root at zero: the loss is fine, its derivative is not."""
    model, batch = small()
    steep = lambda m, x, y: loss_fn(m, x, y) + (m[0].weight * 0).sum().sqrt()
    refused(NonFiniteError, "slopes", method, model, steep, *batch)


# the batch


@of_methods(EVERY)
def test_nan_in_the_batch(method):
    model, (x, y) = small()
    x[2, 3] = torch.nan
    refused(NonFiniteError, "batch[0]", method, model, loss_fn, x, y, match="clean or mask")
    nested = lambda m, b: loss_fn(m, b["x"], b["y"])
    refused(NonFiniteError, "batch[0]['x']", method, model, nested, {"x": x, "y": y})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2], ids=str)
def test_nan_is_found_in_every_dtype(dtype):
    x = torch.tensor([torch.inf, -1.0, 0.0]).to(dtype)
    assert not holds_nan(x) and not holds_nan(x[:0])
    assert holds_nan(torch.tensor([torch.inf, torch.nan, 1.0]).to(dtype))


def test_infinities_in_the_batch_are_let_through():
    """Masks hold them."""
    model, (x, y) = small()
    mask = torch.tensor([0.0, -torch.inf, 0.0]).double()
    masked = lambda m, x, y, mask: F.cross_entropy(m(x) + mask, y)
    assert fg.backward(ForwardGradient(), model, masked, x, torch.zeros_like(y), mask).isfinite()


@of_methods(EVERY)
def test_a_batch_on_another_device(method):
    model, (x, y) = small()
    refused(InputError, "batch[1]", method, model, loss_fn, x, y.to("meta"), match="device cpu; found a tensor on meta")


# the parameters


@of_methods(EVERY)
def test_parameters_on_two_devices(method):
    model, batch = small()
    model[3].to("meta")
    with pytest.raises(InputError, match=r"`0.weight` on cpu and `3.weight` on meta") as caught:
        fg.backward(method, model, loss_fn, *batch)
    assert caught.value.path == "3.weight"
    with pytest.raises(InputError) as caught:
        ForwardGradient()(lambda p: p["a"].sum(), {"a": torch.zeros(2), "b": torch.zeros(2, device="meta")})
    assert caught.value.path == "b"


@of_methods(EVERY)
@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64], ids=str)
def test_integer_and_complex_parameters(method, dtype):
    model, batch = small()
    model.phase = nn.Parameter(torch.zeros(2, dtype=dtype), requires_grad=dtype.is_complex)
    params = None if dtype.is_complex else ["phase"]
    refused(InputError, "phase", method, model, loss_fn, *batch, params=params, match="real floating point")


@of_methods(EVERY)
def test_nothing_to_train(method):
    model, batch = small()
    model.requires_grad_(False)
    refused(InputError, "", method, model, loss_fn, *batch, match="requires_grad_")


@of_methods(EVERY)
@pytest.mark.parametrize("params", [["9.weight"], [torch.zeros(2)]], ids=["name", "tensor"])
def test_params_that_are_none_of_the_models(method, params):
    model, batch = small()
    refused(InputError, "", method, model, loss_fn, *batch, params=params, match="parameters of the model")


class Changing(nn.Linear):
    """Writes into its weight while it runs."""

    def __init__(self, change):
        super().__init__(5, 7, dtype=torch.float64)
        self.change = change

    def forward(self, x):
        self.change(self.weight)
        return super().forward(x)


def _assigned(weight):
    weight[0] = 0


DIRECT = {
    "mul_": lambda w: w.mul_(0.9),
    "no_grad": lambda w: torch.no_grad()(w.zero_)(),
    "copy_": lambda w: w.copy_(torch.zeros(7, 5)),
    "setitem": _assigned,
}
ALIASED = {
    ".data": lambda w: w.data.mul_(0.9),
    "detach": lambda w: w.detach().add_(1),
    "view": lambda w: w.view(-1)[3:5].fill_(0),
}
DIFFERENCES = [SPSA(), SPSA(tangents="gaussian"), ForwardGradient(slope="one_sided")]


@of_methods(FORWARD)
@pytest.mark.parametrize("change", DIRECT | ALIASED)
def test_a_parameter_changed_in_place_under_a_push(method, change):
    model, batch = small()
    model[0] = Changing((DIRECT | ALIASED)[change])
    refused(ParameterChangedError, "0", method, model, loss_fn, *batch, match="`0.weight` written in place")


@of_methods(DIFFERENCES)
@pytest.mark.parametrize("change", DIRECT)
def test_a_parameter_changed_in_place_under_differences(method, change):
    model, batch = small()
    model[0] = Changing(DIRECT[change])
    refused(ParameterChangedError, "0.weight", method, model, loss_fn, *batch, match="`0.weight` written in place")


@of_methods(DIFFERENCES)
@pytest.mark.parametrize("change", ALIASED)
def test_a_write_through_an_alias_never_reaches_the_weights_under_differences(method, change):
    model, batch = small()
    model[0] = Changing(ALIASED[change])
    before = model[0].weight.detach().clone()
    fg.backward(method, model, loss_fn, *batch, key=fg.Key(0))
    assert torch.equal(model[0].weight, before)


@of_methods([*FORWARD, SPSA(), SPSA(tangents="gaussian"), ForwardGradient(slope="one_sided")])
def test_an_embedding_that_rescales_its_rows(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4, max_norm=0.1), nn.Linear(4, 6)).double()
    tokens = torch.tensor([[0, 1, 2, 5], [3, 0, 0, 4]])
    path = "0.weight" if isinstance(method, SPSA) or method.slope == "one_sided" else "0"
    square = lambda m, x: m(x).square().mean()
    refused(UnsupportedError, path, method, model, square, tokens, match="max_norm")


# tangents that do not arrive


class NoJvp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def affine(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + 1


class Cut(nn.Module):
    """Something between two layers that a tangent does not pass."""

    def __init__(self, cut):
        super().__init__()
        self.cut = cut

    def forward(self, x):
        return self.cut(x)


CUTS = {
    "detach": (LostTangentError, lambda x: x.detach(), "detach"),
    ".data": (LostTangentError, lambda x: x.data, "data"),
    "numpy": (LostTangentError, lambda x: torch.from_numpy(x.numpy()), "numpy"),
    "detached numpy": (LostTangentError, lambda x: torch.from_numpy(x.detach().numpy()), "detach|numpy"),
    "tolist": (LostTangentError, lambda x: torch.tensor(x.tolist()).double(), "tolist"),
    "item": (LostTangentError, lambda x: torch.full((9, 7), x.sum().item()).double(), "item"),
    "custom Function": (UnsupportedError, lambda x: NoJvp.apply(x), "NoJvp"),
    "custom Function, its apply taken before": (UnsupportedError, NoJvp.apply, "NoJvp"),
}


@of_methods(FORWARD)
@pytest.mark.parametrize("cut", CUTS)
def test_a_tangent_that_is_lost_on_the_way(method, cut):
    error, function, match = CUTS[cut]
    model, batch = small()
    model[2] = Cut(function)
    refused(error, "2", method, model, loss_fn, *batch, match=match)


class Doubled(NoJvp):
    @staticmethod
    def jvp(ctx, dx):
        return dx * 2


@pytest.mark.parametrize("apply", [Doubled.apply, lambda x: Doubled.apply(x)], ids=["taken before", "looked up"])
def test_a_custom_function_with_a_jvp_is_followed(apply):
    slopes = []
    for function in (apply, lambda x: x * 2):
        model, batch = small()
        model[2] = Cut(function)
        objective = fg.ModuleObjective(model, loss_fn, *batch)
        slopes.append(ForwardGradient(3)(objective, objective.params, key=fg.Key(0)).slopes)
    torch.testing.assert_close(*slopes)
    x = torch.ones(2, requires_grad=True)
    Doubled.apply(x).sum().backward()  # and torch has its own back
    assert torch.equal(x.grad, torch.full((2,), 2.0))


@of_methods(FORWARD)
def test_scripted_code(method):
    model, batch = small()
    with pytest.warns(DeprecationWarning):
        model[2] = Cut(torch.jit.script(affine))
    refused(UnsupportedError, "2", method, model, loss_fn, *batch, match="unscripted|Python|scripted")
    with pytest.warns(DeprecationWarning):
        model[2] = torch.jit.script(nn.Tanh())
    refused(UnsupportedError, "2", method, model, loss_fn, *batch, match="torch.jit")


def test_a_stop_that_is_meant():
    model, batch = small()
    meant = lambda m, x, y: F.cross_entropy(m[3](fg.stop_gradient(m[:3](x))), y)
    fg.backward(ForwardGradient(), model, meant, *batch, into=(sink := fg.Collect()))
    assert set(sink.grads) == {"3.weight", "3.bias"}


@of_methods(FORWARD)
def test_an_operation_without_a_forward_derivative(method):
    model, (x, _) = small()
    frames = torch.randint(1, 3, (9, 2))

    def ctc(m, x, frames):
        scores = F.log_softmax(m[3](m[:3](x)), -1).unsqueeze(0).expand(4, 9, 3)
        return F.ctc_loss(scores, frames, torch.full((9,), 4), torch.full((9,), 2))

    refused(UnsupportedError, "loss_fn", method, model, ctc, x, frames, match="ctc_loss")


def test_strict_refuses_fallbacks_and_values_read_out():
    model, batch = small()
    model[2] = Cut(torch.sinc)
    fg.backward(ForwardGradient(), model, loss_fn, *batch)
    refused(StrictError, "2", ForwardGradient(), model, loss_fn, *batch, strict=True, match="sinc")


# models that cannot be followed


@of_methods(EVERY)
def test_a_compiled_model(method):
    model, batch = small()
    refused(
        UnsupportedError, "model", method, torch.compile(model, backend="eager"), loss_fn, *batch, match="_orig_mod"
    )
    model[0] = torch.compile(model[0], backend="eager")
    refused(UnsupportedError, "0", method, model, loss_fn, *batch, match="torch.compile")
    model, batch = small()
    model[3].compile(backend="eager")
    refused(UnsupportedError, "3", method, model, loss_fn, *batch, match="torch.compile")


def test_methods_that_need_more_than_the_objective_tells():
    class Box:
        def __call__(self, params):
            return params["x"].sum()

    class BlackBox(nn.Module):
        def forward(self, params):
            return params["x"].sum()

    params = {"x": torch.zeros(2)}
    with pytest.raises(RungError, match=r"ForwardGradient needs tangents pushed forward; found BlackBox; .*fg.SPSA"):
        ForwardGradient()(BlackBox(), params)
    with pytest.raises(RungError, match="needs the blocks of a model; found Box"):
        CheckpointedBackprop()(Box(), params)
    assert ForwardGradient()(Box(), params).grad.keys() == SPSA()(Box(), params).grad.keys()


# numbers and names


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "4", None], ids=repr)
@pytest.mark.parametrize("method", [ForwardGradient, SPSA, ControlVariate], ids=lambda m: m.__name__)
def test_a_number_of_tangents_below_one(method, bad):
    with pytest.raises(InputError, match=f"num_tangents needs a whole number K >= 1; found {bad!r}"):
        method(num_tangents=bad)


@pytest.mark.parametrize("tangents", ["orthonormal", "coordinate"])
@pytest.mark.parametrize("method", [ForwardGradient, SPSA, ControlVariate], ids=lambda m: m.__name__)
def test_more_tangents_than_dimensions(method, tangents):
    model, batch = small()
    n = sum(p.numel() for p in model.parameters())
    refused(
        InputError,
        "",
        method(num_tangents=n + 1, tangents=tangents),
        model,
        loss_fn,
        *batch,
        match=f"n={n}.*at most {n}",
    )


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ForwardGradient(tangents="gausian"), "found `gausian`; write `gaussian`"),
        (lambda: SPSA(tangents="x"), "choose one of `coordinate`, `gaussian`"),
        (lambda: ControlVariate(tangents="gausian"), "write `gaussian`"),
        (lambda: ForwardGradient(tangents=lambda params, k, key: None), "needs a name or a sampler object"),
        (lambda: ForwardGradient(combine="projct"), "combine= needs a known name .*found `projct`; write `project`"),
        (lambda: ForwardGradient(combine=3), "found `3`; choose one of `mean`, `mmse`, `project`"),
        (lambda: ForwardGradient(combine=fg.Mean), "combine= needs"),
        (lambda: ForwardGradient(slope="jpv"), "slope= needs a known name .*found `jpv`; write `jvp`"),
        (lambda: ForwardGradient(slope=None), "slope= needs"),
        (lambda: ControlVariate(slope="jpv"), "slope= needs"),
        (lambda: ForwardGradient(scale="big"), "found 'big'"),
        (lambda: SPSA(scale="big"), "found 'big'"),
        (lambda: ControlVariate(scale="big"), "found 'big'"),
        (lambda: ForwardGradient(scale=float("nan")), "factor > 0; found nan"),
        (lambda: ForwardGradient(scale=-1.0), "factor > 0; found -1.0"),
        (lambda: SPSA(scale=0.0), "factor > 0"),
        (lambda: ControlVariate(scale=float("inf")), "factor > 0"),
        (lambda: ControlVariate(rate=0.0), r"rate needs to lie in \(0, 1\]"),
        (lambda: ControlVariate(rate=1.5), r"rate needs to lie in \(0, 1\]"),
        (lambda: SPSA(eps=0), "eps > 0; found 0"),
        (lambda: SPSA(eps=-1e-3), "eps > 0"),
        (lambda: SPSA(eps=float("nan")), "eps > 0; found nan"),
        (lambda: SPSA(eps=float("inf")), "eps > 0; found inf"),
        (lambda: SPSA(eps="small"), "eps > 0; found 'small'"),
        (lambda: fg.OneSided(0.0), "eps > 0"),
        (lambda: ForwardGradient(chunk_size=0), "chunk_size needs a whole number"),
        (lambda: ForwardGradient(chunk_size="auto"), "need each other"),
        (lambda: ForwardGradient(chunk_size=2, byte_budget=10), "need each other"),
        (lambda: ForwardGradient(byte_budget=10), "need each other"),
        (lambda: ForwardGradient(chunk_size="auto", byte_budget=0), "byte_budget needs at least one byte"),
        (lambda: ForwardGradient(chunk_size="all"), "chunk_size needs"),
        (lambda: ForwardGradient(chunk_size=1.5), "chunk_size needs"),
        (lambda: ForwardGradient(slope="central", chunk_size=2), "chunk_size"),
        (lambda: ForwardGradient(slope=fg.Jvp(4), chunk_size=2), "a Jvp object has its own"),
    ],
)
def test_unknown_names_and_wrong_numbers_are_refused_when_the_method_is_made(make, match):
    with pytest.raises(InputError, match=match):
        make()


@pytest.mark.parametrize("method", [ForwardGradient, "forward", None])
def test_what_is_no_method_object_is_refused(method):
    model = nn.Linear(3, 2)
    with pytest.raises(InputError, match=r"needs a method object; found .*ForwardGradient"):
        fg.backward(method, model, lambda m, x: m(x).sum(), torch.randn(4, 3))
    assert all(p.grad is None for p in model.parameters())


def test_every_error_is_a_forwardgrad_error_and_pickles():
    import pickle

    model, batch = small()
    with pytest.raises(ForwardGradError) as caught:
        fg.backward(ForwardGradient(), model, lambda m, x, y: m(x), *batch)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is InputError and str(again) == str(caught.value) and again.path == "loss"
