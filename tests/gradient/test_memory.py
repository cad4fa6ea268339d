"""A step with a factored gradient makes nothing of the parameter's size."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestStorage(TorchDispatchMode):
    """Remembers the largest storage that any operation returned and that was not there before."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if type(made) is Tensor and made.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, made.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(64, 48), (32, 16, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_sgd_makes_nothing_of_the_parameters_size(make, shape, dtype, channels_last) -> None:
    param = torch.zeros(shape, dtype=dtype)
    if channels_last and len(shape) == 4:
        param = param.contiguous(memory_format=torch.channels_last)
    param = nn.Parameter(param)
    optimizer = torch.optim.SGD([param], lr=0.1)
    param.grad = make(shape, rank=2, dtype=dtype)
    with LargestStorage([param]) as mode:
        torch.nn.utils.clip_grad_norm_([param], 1.0)
        optimizer.step()
    # The factors in float64, for the norm, are the largest thing made.
    assert 0 < mode.largest <= 8 * 2 * max(shape[0], prod(shape[1:])) < param.numel() * param.element_size()
    assert param.grad.densified == 0 and param.any()
