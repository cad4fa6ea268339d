"""Layers that a push takes whole: the same value and slopes as their own code, and only where that is so."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import forwardgrad as fg
from forwardgrad.forward_ad.whole import wholes
from forwardgrad.forward_ad.whole.taking import AGREE
from forwardgrad.tangents import Gaussian, Key, RankOneRademacher

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")

NORMS = [
    "llama.modeling_llama.LlamaRMSNorm",
    "mistral.modeling_mistral.MistralRMSNorm",
    "qwen2.modeling_qwen2.Qwen2RMSNorm",
    "phi3.modeling_phi3.Phi3RMSNorm",
    "t5.modeling_t5.T5LayerNorm",
    "gemma.modeling_gemma.GemmaRMSNorm",
    "gemma3.modeling_gemma3.Gemma3RMSNorm",
]

RANK_ONE = RankOneRademacher()


def found(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def both(model: nn.Module, x: Tensor, sampler: Any = RANK_ONE, num_tangents: int = 3) -> tuple[Any, Any, int]:
    """(loss, slopes) with layers taken whole and op by op, and how many were."""
    objective = fg.ModuleObjective(model, lambda m, x: m(x).square().sum(), x)
    v = sampler(objective.params, num_tangents, Key(0, 0))
    results = []
    for layers in (objective._wholes, []):
        objective.__dict__["_wholes"] = layers
        with torch.no_grad():
            results.append(objective.push(objective.params, v)[:2])
    return results[0], results[1], len(wholes(objective.modules))


def equal(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], within: float) -> None:
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=within, atol=within)


def oracle(model: nn.Module, x: Tensor, v: Any) -> Tensor:
    """The slopes by reverse mode."""
    loss = model(x).square().sum()
    params = {n: p for n, p in model.named_parameters() if p.requires_grad}
    grads = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))
    return sum((v[n].dense() * g).flatten(1).sum(1) for n, g in grads.items())


@pytest.mark.parametrize("name", ["NewGELU", "FastGELU", "AccurateGELU", "QuickGELU"])
def test_activations_in_float64(name: str) -> None:
    torch.manual_seed(0)
    act = found(f"transformers.activations.{name}Activation")()
    model = nn.Sequential(nn.Linear(5, 64), act, nn.Linear(64, 3)).double()
    whole, own, taken = both(model, x := torch.randn(7, 5).double())
    assert taken == 1
    equal(whole, own, 1e-8 if name == "FastGELU" else 1e-12)  # which writes sqrt(2/pi) with ten digits
    v = RANK_ONE(dict(model.named_parameters()), 3, Key(0, 0))
    torch.testing.assert_close(whole[1], oracle(model, x, v), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", NORMS)
@pytest.mark.parametrize("frozen", [False, True])
def test_norms(path: str, frozen: bool) -> None:
    torch.manual_seed(0)
    norm = found(f"transformers.models.{path}")(16)
    nn.init.normal_(norm.weight).requires_grad_(not frozen)
    whole, own, taken = both(nn.Sequential(nn.Linear(5, 16), norm), torch.randn(2, 7, 5))
    assert taken == 1
    equal(whole, own, 2e-6)


def test_a_norm_that_rounds_to_float32_is_followed_in_float64() -> None:
    norm = found(f"transformers.models.{NORMS[0]}")(16).double()
    whole, own, _ = both(nn.Sequential(nn.Linear(5, 16), norm).double(), torch.randn(7, 5).double())
    assert torch.equal(whole[1], own[1])


@pytest.mark.parametrize("path", [NORMS[0], NORMS[4], NORMS[5]])
def test_norms_in_bfloat16(path: str) -> None:
    torch.manual_seed(0)
    norm = found(f"transformers.models.{path}")(64)
    nn.init.normal_(norm.weight)
    x = torch.randn(32, 64)
    exact, _, taken = both(nn.Sequential(norm), x)
    low, _, _ = both(nn.Sequential(norm.bfloat16()), x.bfloat16())
    assert taken == 1
    assert float((low[1].float() - exact[1]).norm() / exact[1].norm()) < 0.01


def test_a_norm_of_another_formula_is_not_taken() -> None:
    stock = found(f"transformers.models.{NORMS[0]}")
    other = type("OtherRMSNorm", (stock,), {"forward": lambda self, x: stock.forward(self, x) * self.weight})
    other.__module__ = stock.__module__
    assert wholes([stock(16)]) and not wholes([other(16)])


def test_bloom_whose_activation_has_no_jvp() -> None:
    torch.manual_seed(0)
    act = found("transformers.models.bloom.modeling_bloom.BloomGelu")()
    model = nn.Sequential(nn.Linear(5, 64), act, nn.Linear(64, 3)).double()
    objective = fg.ModuleObjective(model, lambda m, x: m(x).square().sum(), x := torch.randn(7, 5).double())
    v = RANK_ONE(objective.params, 3, Key(0, 0))
    with torch.no_grad():
        slopes = objective.push(objective.params, v).slopes
    torch.testing.assert_close(slopes, oracle(model, x, v), rtol=1e-6, atol=1e-6)  # it has eight digits of sqrt(2/pi)


def test_a_class_that_computes_something_else_by_that_name_is_not_taken() -> None:
    stock = found("transformers.activations.NewGELUActivation")
    other = type("NewGELUActivation", (nn.Module,), {"forward": lambda self, x: 1.01 * stock()(x)})
    other.__module__ = stock.__module__
    raising = type("FastGELUActivation", (nn.Module,), {"forward": lambda self: None})
    raising.__module__ = stock.__module__
    assert wholes([stock()]) and not wholes([other()]) and not wholes([raising()])


def test_a_layer_with_a_forward_of_its_own_is_not_taken() -> None:
    act = found("transformers.activations.NewGELUActivation")()
    act.forward = lambda x: x
    assert not wholes([act])


class Adapted(nn.Module):
    """Two layers that PEFT adapts: nn.Linear, and GPT-2's Conv1D."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = found("transformers.pytorch_utils.Conv1D")(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def adapted(train: bool = False, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    given = {"r": 3, "lora_alpha": 5, "target_modules": ["first", "second"], "init_lora_weights": False, **options}
    model = peft.get_peft_model(Adapted(), peft.LoraConfig(**given)).double().train(train)
    return model.base_model.model


def second(model: nn.Module) -> None:
    for layer in (model.first, model.second):
        config = peft.LoraConfig(r=2, lora_alpha=3, init_lora_weights=False)
        layer.update_layer("other", r=2, lora_alpha=3, config=config)
        layer.double().set_adapter(["default", "other"])


def frozen_a(model: nn.Module) -> None:
    for layer in (model.first, model.second):
        layer.lora_A.requires_grad_(False)


def merged(model: nn.Module) -> None:
    model.first.merge()
    model.second.lora_B.requires_grad_(True)


def half_disabled(model: nn.Module) -> None:
    model.first.enable_adapters(False)


@pytest.mark.parametrize("sampler", [RANK_ONE, Gaussian()], ids=["rank_one", "dense"])
@pytest.mark.parametrize(
    "change",
    [lambda model: None, second, frozen_a, merged, half_disabled],
    ids=["plain", "two adapters", "A frozen", "one merged", "one disabled"],
)
@pytest.mark.parametrize("num_tangents", [1, 3])
def test_adapters(change: Callable[[nn.Module], None], sampler: Any, num_tangents: int) -> None:
    model = adapted()
    change(model)
    x = torch.randn(2, 7, 6).double()
    whole, own, taken = both(model, x, sampler, num_tangents)
    assert taken >= 1
    equal(whole, own, 1e-12)
    params = {n: p for n, p in model.named_parameters() if p.requires_grad}
    moving = {n: p for n, p in params.items() if n in reached(model, x)}
    v = sampler(params, num_tangents, Key(0, 0))
    expected = sum((v[n].dense() * g).flatten(1).sum(1) for n, g in reached(model, x).items())
    assert moving
    torch.testing.assert_close(whole[1], expected, rtol=1e-10, atol=1e-10)


def reached(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The gradients of the parameters on which the loss depends."""
    params = {n: p for n, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(model(x).square().sum(), list(params.values()), allow_unused=True)
    return {n: g for n, g in zip(params, grads, strict=True) if g is not None}


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}, {"use_rslora": True}], ids=str)
def test_other_kinds_of_adapters_are_right(options: dict[str, Any]) -> None:
    model = adapted(**options, **({"target_modules": ["first"]} if "use_dora" in options else {}))
    whole, own, _ = both(model, torch.randn(7, 6).double())
    equal(whole, own, 1e-12)


def test_dropout_draws_what_the_layer_itself_would() -> None:
    model = adapted(train=True, lora_dropout=0.5)
    objective = fg.ModuleObjective(model, lambda m, x: m(x).square().sum(), torch.randn(7, 6).double())
    v = RANK_ONE(objective.params, 2, Key(0, 0))
    results = []
    for layers in (objective._wholes, []):
        objective.__dict__["_wholes"] = layers
        torch.manual_seed(3)
        with torch.no_grad():
            results.append(objective.push(objective.params, v)[:2])
    equal(*results, 1e-12)


def test_adapters_that_were_never_trained_are_tried_with_other_weights() -> None:
    model = adapted(init_lora_weights=True)  # B = 0
    model.first.scaling["default"] *= 2
    whole, own, taken = both(model, torch.randn(7, 6).double())
    assert taken == 2
    equal(whole, own, 1e-12)


def test_hooks_are_called_and_nothing_stays_behind() -> None:
    model = adapted()
    seen: list[str] = []
    model.first.register_forward_hook(lambda *_: seen.append("layer"))
    model.first.lora_B["default"].register_forward_hook(lambda *_: seen.append("B"))
    before = {n: p.clone() for n, p in model.named_parameters()}
    state = torch.get_rng_state()
    fg.backward(fg.ForwardGradient(), model, lambda m, x: m(x).sum(), torch.randn(3, 6).double(), key=Key(0, 0))
    assert seen[-2:] == ["B", "layer"]
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    torch.set_rng_state(state)

    def failing(m: nn.Module, x: Tensor) -> Tensor:
        m(x)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fg.backward(fg.ForwardGradient(), model, failing, torch.randn(3, 6).double(), key=Key(0, 0))
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_large_or_small_factor_of_an_adapter_passes_the_trial(factor: float) -> None:
    AGREE.clear()
    model = adapted().float()
    model.first.scaling["default"] = factor
    assert wholes([model.first])


def test_a_trial_is_not_seen_by_hooks() -> None:
    AGREE.clear()
    model, seen = adapted(), []
    handles = [m.register_forward_hook(lambda *_: seen.append(1)) for m in model.first.modules()]
    assert len(wholes([model.first])) == 0 and not seen
    for handle in handles:
        handle.remove()
    assert len(wholes([model.first])) == 1


def test_a_trial_draws_nothing_from_the_process() -> None:
    AGREE.clear()
    state = torch.get_rng_state()
    wholes(list(adapted_without_seed().modules()))
    assert torch.equal(torch.get_rng_state(), state)


def adapted_without_seed() -> nn.Module:
    with torch.random.fork_rng():
        return adapted(train=True, lora_dropout=0.5)


def test_under_autocast_a_layer_goes_its_own_way() -> None:
    norm = found(f"transformers.models.{NORMS[0]}")(16)
    model = nn.Sequential(nn.Linear(5, 16), norm)
    x = torch.randn(7, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole, own, _ = both(model, x)
    assert torch.equal(whole[1], own[1])
