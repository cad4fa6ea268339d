"""Laws are inverted to the last bits, a model is its law until it is trained, a channel is in balance."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

import forwardgrad as fg
from forwardgrad.errors import InputError
from forwardgrad.probes import tape_bytes
from forwardgrad.wall_model import Channel, Reichardt, Viscous, WallModel, resolved, stretched, uniform

f64 = {"dtype": torch.float64}
NU = 5e-5  # of the simulation at Re_tau = 1000, bulk velocity and half height 1


def trained_like(seed: int = 0, **options) -> WallModel:
    """A model whose net says something."""
    model = WallModel(generator=Generator().manual_seed(seed), **options)
    torch.nn.init.normal_(model.net[-1].weight, std=0.05, generator=Generator().manual_seed(seed))
    return model.double()


def still(**options):
    """Its stress, with nothing to train."""
    return trained_like(**options).requires_grad_(False).stress


@pytest.mark.parametrize("law", [Viscous(), Reichardt(), Reichardt(0.384)], ids=str)
def test_a_law_is_inverted_to_the_last_bits(law):
    """The named property: log_height(u+ y+) = ln y+, from deep in the viscous layer to atmospheric Reynolds numbers."""
    y = torch.logspace(-4, 6, 2001, **f64)
    back = law.log_height(law.velocity(y) * y)
    assert (back - y.log()).abs().max() < 1e-12


def test_reichardt_is_viscous_at_the_wall_and_logarithmic_above():
    law = Reichardt()
    near, far = torch.tensor([1e-4, 1e-2], **f64), torch.tensor([1e3, 1e5], **f64)
    torch.testing.assert_close(law.velocity(near), near, rtol=2e-2, atol=0)
    slope = law.velocity(far).diff() / far.log().diff()
    assert float(slope) == pytest.approx(1 / 0.41, rel=1e-3)


def test_an_untrained_model_is_its_law_and_starts_from_its_generator():
    reynolds = torch.logspace(0, 4.5, 50)
    for law in (Reichardt(), Viscous()):
        model = WallModel((8,), law, Generator().manual_seed(0))
        assert torch.equal(model(reynolds), law.log_height(reynolds))
    first, again, other = (WallModel(generator=Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.net[2].weight, again.net[2].weight)
    assert not torch.equal(first.net[2].weight, other.net[2].weight)


def test_the_stress_of_a_profile_that_obeys_the_law_is_its_own():
    """In SI units, against u_tau put in by hand; of the flow's sign, and none where there is no flow."""
    u_tau, nu = 0.3, 1.5e-5
    y = torch.tensor([1e-4, 1e-3, 2e-2], **f64)
    u = u_tau * Reichardt().velocity(y * u_tau / nu)
    model = WallModel().double()
    assert torch.allclose(model.stress(u, y, nu), torch.full((3,), u_tau**2, **f64), rtol=1e-10)
    assert torch.equal(model.stress(-u, y, nu), -model.stress(u, y, nu))
    assert not model.stress(0 * u, y, nu).any()


def test_scales_drop_out():
    """Lengths doubled, times halved: the stress in units of the new scales stays."""
    model, y, u = trained_like(), torch.tensor([0.1], **f64), torch.tensor([0.9], **f64)
    here = model.stress(u, y, NU)
    assert torch.allclose(model.stress(4 * u, 2 * y, 8 * NU), 16 * here, rtol=1e-12)


def test_beyond_its_reach_the_correction_is_that_of_the_nearest_end():
    model = trained_like()
    correction = lambda reynolds: model(reynolds) - model.law.log_height(reynolds)
    far = torch.tensor([1e-3, 0.5, 1e6, 1e8], **f64)
    ends = torch.tensor([1.0, 1.0, 10.5, 10.5], **f64)
    ends[2:] = ends[2:].exp()
    torch.testing.assert_close(correction(far), correction(ends))


def test_a_forward_gradient_of_the_model_is_autograds_without_a_tape():
    """All coordinates, float64: the slopes are the gradient; nothing is offered to a tape."""
    model = trained_like(widths=(3,))
    reynolds = torch.logspace(0, 4, 7, **f64)
    loss_fn = lambda model, x: (model(x) - 1).square().mean()
    n = sum(p.numel() for p in model.parameters())
    sink = fg.Collect()
    with tape_bytes(model) as tape:
        fg.backward(fg.ForwardGradient(n, "coordinate"), model, loss_fn, reynolds, into=sink, key=fg.Key(0))
    assert tape() == 0
    loss_fn(model, reynolds).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(sink.grads[name] + 0, p.grad)


@pytest.mark.parametrize("channel", [
    Channel(stretched(64), NU), Channel(uniform(16), NU, still(), 1),
    Channel(uniform(8), 1e-3, WallModel().double().requires_grad_(False).stress),
], ids=["resolved", "modelled", "first cell"])  # fmt: skip
def test_the_steady_profile_stays_and_carries_the_flow_rate(channel):
    steady = channel.steady()
    assert float((steady * channel.faces.diff()).sum()) == pytest.approx(1, abs=1e-12)
    later = channel.advance(steady, channel.stable_step(steady))
    torch.testing.assert_close(later, steady, rtol=0, atol=1e-11)


def test_a_naive_twin_of_a_time_step():
    channel = Channel(uniform(6), NU, still(), 1)
    u = torch.linspace(0.6, 1.2, 6, **f64)
    wall = float(channel.stress(u[1], torch.tensor(0.25, **f64), NU))
    flux = [wall]
    for i in range(1, 6):
        y = i / 6
        length = 0.14 - 0.08 * (1 - y) ** 2 - 0.06 * (1 - y) ** 4
        length *= 1 - 2.718281828459045 ** (-y * wall**0.5 / NU / 26)
        slope = float(u[i] - u[i - 1]) * 6
        flux.append((NU + length**2 * abs(slope)) * slope)
    flux.append(0.0)
    expected = [float(u[i]) + 0.01 * (wall + (flux[i + 1] - flux[i]) * 6) for i in range(6)]
    torch.testing.assert_close(channel.advance(u, 0.01), torch.tensor(expected, **f64))


def test_a_channel_runs_into_its_steady_profile_and_keeps_its_flow_rate():
    channel = Channel(uniform(8), NU, still(law=Viscous()), 1)
    steady, u = channel.steady(), torch.ones(8, **f64)
    dt = channel.stable_step(steady)
    for _ in range(1000):
        u = channel.advance(u, dt)
    assert float(u.mean()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(u, steady, rtol=0, atol=1e-6)


def test_a_laminar_channel_is_a_parabola():
    """At Re_b = 10 the mixing length does next to nothing: U = 3/2 (1 - (1-y)^2) and tau_w = 3 nu."""
    channel = Channel(uniform(200), 0.1)
    u, y = channel.steady(), channel.heights
    torch.testing.assert_close(u, 1.5 * (1 - (1 - y) ** 2), rtol=0, atol=2e-3)
    assert float(channel.wall_stress(u)) == pytest.approx(0.3, rel=5e-3)


def test_tangents_pass_through_time_steps():
    """The friction after some steps, differentiated by the model's weights, forwards and in reverse."""
    model = trained_like(widths=(2,))
    channel = Channel(uniform(6), NU, model.stress, 1)

    def loss_fn(model):
        u = torch.ones(6, **f64)
        for _ in range(3):
            u = channel.advance(u, 0.05)
        return channel.wall_stress(u) * 1e3

    n = sum(p.numel() for p in model.parameters())
    sink = fg.Collect()
    fg.backward(fg.ForwardGradient(n, "coordinate"), model, loss_fn, into=sink, key=fg.Key(0))
    loss_fn(model).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(sink.grads[name] + 0, p.grad)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Reichardt(0.0), "kappa > 0; found 0.0"),
        (lambda: WallModel(()), r"hidden layers with units; found widths \[\]"),
        (lambda: WallModel((4, 0)), "hidden layers with units"),
        (lambda: WallModel().stress(torch.ones(1), torch.zeros(1), 1e-5), "heights and a viscosity > 0; found nu"),
        (lambda: WallModel().stress(torch.ones(1), torch.ones(1), 0.0), "heights and a viscosity > 0"),
        (lambda: uniform(1), "two cells or more; found 1"),
        (lambda: stretched(True), "two cells or more"),
        (lambda: Channel(torch.tensor([0.0, 0.5, 0.4, 1.0]), NU), "faces that rise from 0 to 1"),
        (lambda: Channel(torch.tensor([0.1, 0.5, 1.0]), NU), "faces that rise from 0 to 1"),
        (lambda: Channel(uniform(4), 0.0), "viscosity > 0; found 0.0"),
        (lambda: Channel(uniform(4), NU, resolved, 4), "a cell of the channel; found 4 of 4"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(make, said):
    with pytest.raises(InputError, match=said):
        make()
