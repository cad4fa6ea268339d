from __future__ import annotations

import pytest
import torch

from forwardgrad.errors import ConfigError, DataError
from forwardgrad.train.config import build_config
from forwardgrad.train.fetch import fetcher_of
from forwardgrad.train.loop import step_cost, train_run
from forwardgrad.train.methods import CHOICES
from forwardgrad.train.tasks.channel import ChannelFlow, log_stress_error, samples, split, stress_errors
from forwardgrad.train.tasks.profiles import REYNOLDS, SOURCE, read_all, read_profile
from forwardgrad.wall_model import Reichardt, Viscous, WallModel

f64 = {"dtype": torch.float64}


def written(number: int, bend: float = 1.0, header: str = "% a header\n") -> str:
    """A profile of Reichardt's law, its velocities bent."""
    y = torch.cat([torch.zeros(1, **f64), torch.logspace(-4, -0.001, 80, **f64)])
    u = bend * Reichardt().velocity(y * number)
    rows = zip(y, y * number, u, strict=True)
    return header + "".join(f"{a:.15e} {b:.15e} {c:.15e} 0.0 0.0 0.0\n" for a, b, c in rows)


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """Flows that obey a law of the wall with velocities 3 % above Reichardt's."""
    monkeypatch.setenv("FORWARDGRAD_DATA", str(tmp_path))
    folder = tmp_path / SOURCE.folder
    folder.mkdir(parents=True)
    for number, name in zip(REYNOLDS, SOURCE.names, strict=True):
        (folder / name).write_text(written(number, 1.03))
    return folder


def test_the_parts_share_no_height_and_the_test_part_is_another_reynolds_number(profiles):
    splits = ChannelFlow().load()
    sizes = [len(reynolds) for reynolds, _ in splits]
    found = read_all("channel")
    inside = {number: int(((p.velocity * p.wall_height > 1) & (p.height < 0.3)).sum()) for number, p in found.items()}
    assert sizes[2] == inside[1000] and sizes[0] + sizes[1] == sum(inside.values()) - inside[1000]
    assert sizes[1] == sum(count // 4 for number, count in inside.items() if number != 1000)
    rows = torch.cat([reynolds for reynolds, _ in splits])
    assert len(rows.unique()) == len(rows) and float(rows.min()) > 1


def test_no_friction_velocity_is_among_the_inputs(profiles):
    """The same flow in other units: the model sees u y / nu, and that stays."""
    profile = read_all("channel")[1000]
    u_tau, nu = 0.05, 5e-5
    u, y = profile.velocity * u_tau, profile.wall_height * nu / u_tau
    inside = (u * y / nu > 1) & (profile.height < 0.3)
    reynolds, left = samples(profile, Viscous())
    torch.testing.assert_close(reynolds, (u * y / nu)[inside].float())
    wall_height = (left + Viscous().log_height(reynolds)).exp()
    torch.testing.assert_close(wall_height * nu / u_tau, y[inside].float())


def test_what_the_law_leaves_over_is_nothing_for_a_flow_that_obeys_it(tmp_path):
    (tmp_path / "a.dat").write_text(written(1000))
    reynolds, left = samples(read_profile(tmp_path / "a.dat"), Reichardt())
    assert left.abs().max() < 1e-6
    model = WallModel()
    assert float(stress_errors(model, reynolds, left).max()) < 1e-5
    shifted = torch.full_like(left, -0.01)  # the simulation has y+ 1 % lower, hence a stress 2 % lower
    assert stress_errors(model, reynolds, shifted).mean() == pytest.approx(0.0202, abs=1e-4)
    assert float(log_stress_error(model, reynolds, shifted).detach()) == pytest.approx(4e-4, rel=1e-4)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice().name)
def test_every_method_learns_and_the_same_way_twice(profiles, choice):
    config = build_config({"task": "channel", "method": choice().name, "steps": 40, "evaluations": 2})
    splits = ChannelFlow().load()
    cost = step_cost(config, splits)
    first, second = (train_run(config, splits, 3, cost, lambda now: None) for _ in range(2))
    assert first.weights == second.weights
    untrained = ChannelFlow().score(WallModel(), splits.test)
    assert first.test_accuracy is None and first.test_loss < 0.9 * untrained.loss


def test_headers_of_any_form_are_passed_over(tmp_path):
    """One of the files lost its marks and begins with the names of its columns."""
    text = written(180)
    (tmp_path / "a.dat").write_text(text)
    (tmp_path / "b.dat").write_text(written(180, header="y/delta y^+ U dU/dy W P\n"))
    a, b = read_profile(tmp_path / "a.dat"), read_profile(tmp_path / "b.dat")
    assert torch.equal(a.velocity, b.velocity) and a.friction_reynolds == pytest.approx(180)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "0 rows"),
        ("% only a header\n", "0 rows"),
        ("0 0 0 1 0 0\n0.5 90 16 0 0\n", "not all of 6 numbers"),
        ("0.5 90 16 0 0 0\n0 0 0 1 0 0\n", "heights from the wall"),
        ("0 0 0 1 0 0\n0.95 171 nan 0 0 0\n", "heights from the wall"),
    ],
)
def test_files_that_are_no_profiles_are_data_errors(profiles, content, said):
    path = profiles / SOURCE.names[2]
    path.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        ChannelFlow().load()
    assert caught.value.path == str(path)


def test_missing_files_say_where_they_are_to_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("FORWARDGRAD_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"no such folder.*turbulence\.oden\.utexas\.edu"):
        ChannelFlow().load()
    with pytest.raises(ConfigError, match=r"whose files it can fetch.*by hand"):
        fetcher_of("channel")


def test_the_published_profiles(data_folder):
    """Against the headers of the files themselves: Re_tau, and u_tau of a unit bulk velocity."""
    if not (data_folder / SOURCE.folder).is_dir():
        pytest.skip("needs the profiles")
    found = read_all("channel")
    headers = {550: (543.496, 5.43496e-2), 1000: (1000.512, 5.00256e-2), 5200: (5185.897, 4.14872e-2)}
    for number, (friction, u_tau) in headers.items():
        assert found[number].friction_reynolds == pytest.approx(friction, rel=1e-5)
        assert found[number].bulk_velocity == pytest.approx(1 / u_tau, rel=1e-4)
    law = Reichardt()
    splits = split([found[number] for number in (180, 550, 2000, 5200)], found[1000], law)
    assert [len(reynolds) for reynolds, _ in splits] == [517, 171, 121]
    assert float(stress_errors(WallModel(), *splits.test).mean()) == pytest.approx(0.0306, abs=1e-4)
