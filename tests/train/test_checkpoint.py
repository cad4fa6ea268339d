"""States on disk: the same bits, the same strides, whole or not there."""

from __future__ import annotations

import os
import signal
import threading
from collections import OrderedDict

import pytest
import torch

from forwardgrad.errors import CheckpointError
from forwardgrad.gradient import FactoredGradient
from forwardgrad.train.batches import batches
from forwardgrad.train.checkpoint import Checkpoints, decode
from forwardgrad.train.interrupt import stoppable
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.seeding import stream


def checkpoints(folder, keep=2, **identity) -> Checkpoints:
    return Checkpoints(OutputFolder(folder), "0-seed0", keep, identity)


def test_a_state_comes_back_bit_for_bit(tmp_path):
    x = torch.randn(3, 4)
    state = {
        "numbers": [1, 0.1, 1e-300, float("inf"), True, None, "text"],
        "keys": OrderedDict({0: x, "name": (x, x)}),
        "kinds": {str(dtype): x.to(dtype) for dtype in (torch.bfloat16, torch.float64, torch.int64, torch.bool)},
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(0.1),
        "bytes": torch.get_rng_state(),
        "nan": torch.tensor([float("nan"), -0.0]),
        "nothing": {},
    }
    store = checkpoints(tmp_path)
    store.save(7, state)
    back = store.latest()
    assert back["numbers"] == state["numbers"] and back["nothing"] == {}
    assert torch.equal(back["keys"][0], x) and isinstance(back["keys"]["name"], tuple)
    for name, tensor in {**state["kinds"], "e": state["empty"], "s": state["scalar"], "b": state["bytes"]}.items():
        found = {**back["kinds"], "e": back["empty"], "s": back["scalar"], "b": back["bytes"]}[name]
        assert found.dtype == tensor.dtype and torch.equal(found, tensor)
    assert torch.equal(back["nan"].view(torch.int32), state["nan"].view(torch.int32))


def test_strides_and_factors_come_back_too(tmp_path):
    draw = torch.randn(2, 9)
    gradient = FactoredGradient(draw[:, :4].T, draw[:, 4:].T, torch.ones(2), (4, 5))
    state = {"momentum": gradient, "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)}
    store = checkpoints(tmp_path)
    store.save(0, state)
    back = store.latest()
    assert back["channels last"].stride() == state["channels last"].stride()
    found = back["momentum"]
    assert found.is_factored and found.left.stride() == gradient.left.stride()
    assert torch.equal(found.densify(), gradient.densify())


def test_what_json_and_tensors_cannot_hold_is_refused_with_its_path(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        checkpoints(tmp_path).save(0, {"method": {"hook": print}})
    assert caught.value.path == "method/hook"
    assert list(tmp_path.iterdir()) == []


def test_the_newest_are_kept_and_other_runs_left_alone(tmp_path):
    other = Checkpoints(OutputFolder(tmp_path), "0-seed01", 2, {})
    other.save(1, {})
    store = checkpoints(tmp_path, keep=2)
    for step in (3, 10, 200):
        store.save(step, {"step": step})
    assert store.latest() == {"step": 200}
    assert [int(path.stem[-9:]) for path in sorted(tmp_path.glob("0-seed0-*"))] == [10, 200]
    assert other.newest() is not None


def test_the_header_says_what_the_file_is(tmp_path):
    path = checkpoints(tmp_path, seed=4).save(12, {"x": torch.ones(2)})
    facts, tensors = decode(path)
    assert (facts["step"], facts["identity"]) == (12, {"seed": 4})
    assert facts["versions"]["torch"] and torch.equal(tensors["x"], torch.ones(2))


def test_a_half_written_file_is_swept_away(tmp_path):
    (tmp_path / ".0-seed0-step1.safetensors.abc.part").write_bytes(b"half")
    (tmp_path / "mine").write_bytes(b"whole")
    OutputFolder(tmp_path).ready()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("taken", range(8))
def test_the_order_of_batches_goes_on_anywhere_in_an_epoch(taken):
    part = (torch.arange(10),)
    order = batches(part, 3, stream(0, "order"))  # three batches an epoch
    for _ in range(taken):
        next(order)
    state = order.state_dict()
    rest = [next(order)[0] for _ in range(7)]
    again = batches(part, 3, stream(9, "order"))
    again.load_state_dict(state)
    assert all(torch.equal(next(again)[0], x) for x in rest)


def test_the_first_ctrl_c_asks_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stoppable() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_hears_no_signals():
    asked = []

    def work():
        with stoppable() as stop:
            asked.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]
