"""Models wrapped for many processes: DistributedDataParallel is averaged over the ranks, sharded ones are refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import forwardgrad as fg
from forwardgrad.errors import UnsupportedError
from forwardgrad.methods import SPSA, Backprop, CheckpointedBackprop, ControlVariate, ForwardGradient

METHODS = [
    ForwardGradient(4),
    ForwardGradient(3, "gaussian", chunk_size=2),
    ForwardGradient(3, combine="project"),
    SPSA(num_tangents=2),
    Backprop(),
    CheckpointedBackprop(),
    CheckpointedBackprop(fused=True),
    ControlVariate(2),
]


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    return model, (torch.randn(8, 5).double(), torch.randint(3, (8,)))


def loss_fn(model, x, y):
    return F.cross_entropy(model(x), y)


def trained(method, model, batch, **key):
    """Loss, gradients and weights after a step."""
    loss = fg.backward(copy.deepcopy(method), model, loss_fn, *batch, **key)
    grads = [p.grad + 0 for p in model.parameters()]
    torch.optim.SGD(model.parameters(), 0.1).step()
    return loss, grads, [p.detach().clone() for p in model.parameters()]


def one_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {}
    for method in METHODS:
        model, batch = small()
        wrapped = DistributedDataParallel(model)
        torch.manual_seed(rank)  # ranks draw differently, and must push the same tangents
        half = [x[4 * rank : 4 * rank + 4] for x in batch]
        results[repr(method)] = trained(method, wrapped, half, key=fg.Key(7 + rank))
        if not isinstance(method, ControlVariate):
            model.zero_grad()
            fg.backward(method, wrapped, loss_fn, *half)  # no key: rank 0 draws
            results[repr(method)] += ([p.grad + 0 for p in model.parameters()],)
    model, batch = small()
    fully_shard(model[0], mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(UnsupportedError) as caught:
        fg.backward(ForwardGradient(), model, loss_fn, *batch)
    results["sharded"] = caught.value.path
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(one_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_two_ranks_with_half_the_batch_do_what_one_process_does_with_all_of_it(method, ranks):
    model, batch = small()
    expected = trained(method, model, batch, key=fg.Key(7))
    for seen in (ranks[0][repr(method)], ranks[1][repr(method)]):
        # Rounding of two halves' losses over eps, for differences.
        close = {"rtol": 1e-6, "atol": 1e-8} if isinstance(method, SPSA) else {"rtol": 1e-10, "atol": 1e-12}
        for a, b in zip(seen[:3], expected, strict=True):
            torch.testing.assert_close(a, b, **close)
    for a, b in zip(ranks[0][repr(method)], ranks[1][repr(method)], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


class Wrapping(nn.Module):
    """What a sharded module looks like from outside."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


@pytest.mark.parametrize("name", ["FullyShardedDataParallel", "FSDPLinear"])
@pytest.mark.parametrize("path", ["model", "0"])
@pytest.mark.parametrize("method", [ForwardGradient(), SPSA(), Backprop()], ids=repr)
def test_a_sharded_model_is_refused(name, path, method):
    model, batch = small()
    sharded = type(name, (Wrapping,), {})
    model = sharded(model) if path == "model" else nn.Sequential(sharded(model[0]), *model[1:])
    with pytest.raises(UnsupportedError, match=f"a module wrapped in {name}.*pass the unwrapped module") as caught:
        fg.backward(method, model, loss_fn, *batch)
    assert caught.value.path == path


def test_pytorchs_own_sharding_is_refused(ranks):
    """Of a layer inside, which changes nothing about the model's class."""
    assert [rank["sharded"] for rank in ranks] == ["0", "0"]


def test_a_model_that_scatters_batches_is_refused():
    model, batch = small()
    with pytest.raises(UnsupportedError, match="wrapped in DataParallel"):
        fg.backward(ForwardGradient(), nn.DataParallel(model), loss_fn, *batch)
