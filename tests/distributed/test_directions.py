"""Directions split over two processes give the bits of one process, and draws that differ are refused."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import forwardgrad as fg
from forwardgrad.errors import InputError

K = 6


def loop():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 8, generator=generator), torch.randn(20, generator=generator)
    inner = lambda w, log_weights: (log_weights.exp() * (torch.tanh(x @ w) - y).square()).mean()
    step = lambda w, h, batch: w - h["rate"] * fg.inner_gradient(inner)(w, h["weights"])
    unroll = fg.Unroll(step, torch.zeros(8), lambda w, h: (torch.tanh(x @ w) - y.flip(0)).square().mean(), 15)
    return unroll, {"weights": torch.zeros(20), "rate": torch.tensor(0.3)}


def estimate(slope, num_tangents=K, key=fg.Key(3)):
    unroll, hyper = loop()
    return fg.ForwardGradient(num_tangents, "rademacher", slope=slope)(unroll, hyper, key=key)


def one_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {}
    for num_tangents in (K, K - 1):
        got = estimate(fg.SplitDirections(fg.Jvp(chunk_size=3)), num_tangents)
        results[num_tangents] = (got.loss, got.slopes, got.grad)
    got = estimate(fg.SplitDirections("one_sided"))
    results["one-sided"] = (got.loss, got.slopes, got.grad)
    for name, call in {
        "few": lambda: estimate(fg.SplitDirections(), 1),
        "differ": lambda: estimate(fg.SplitDirections(), key=fg.Key(rank)),
    }.items():
        with pytest.raises(InputError) as caught:
            call()
        results[name] = str(caught.value)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(one_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize(("num_tangents", "slope"), [(K, fg.Jvp(3)), (K - 1, fg.Jvp(3)), ("one-sided", "one_sided")])
def test_two_processes_give_the_bits_of_one(ranks, num_tangents, slope):
    alone = estimate(slope, num_tangents if isinstance(num_tangents, int) else K)
    for rank in ranks:
        loss, slopes, grad = rank[num_tangents]
        assert torch.equal(loss, alone.loss) and torch.equal(slopes, alone.slopes)
        assert all(torch.equal(grad[name], alone.grad[name]) for name in alone.grad)


def test_what_cannot_be_split_is_refused_on_every_process(ranks):
    for rank in ranks:
        assert "one for each process; found 1 over 2" in rank["few"]
        assert "same tangents on every process; found another draw on 1" in rank["differ"]


def test_without_processes_it_is_the_slope_itself():
    a, b = estimate(fg.SplitDirections("jvp")), estimate("jvp")
    assert torch.equal(a.slopes, b.slopes)
    with pytest.raises(InputError, match="a known name or a slope"):
        fg.SplitDirections("jpv")
