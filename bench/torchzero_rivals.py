"""torchzero's ForwardGradient, as its users call it: an optimizer with a closure. All nets.

It pushes one tangent after the other through PyTorch's own duals, with grad mode on. Its step takes the update along,
here with a rate of zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.draws import Factors, written_out
from bench.nets import Net
from bench.rivals import Rival


def torchzero_rivals(net: Net, draws: Mapping[str, Factors], num_tangents: int) -> list[Rival]:
    """One rival, or none where torchzero is missing.

    Args:
        net: model, loss and batch.
        draws: the tangents that `slopes()` pushes.
        num_tangents: K.
    """
    try:
        import torchzero
        from torchzero.utils.derivatives import jvp
    except ImportError:
        return []
    # A copy: it exchanges parameters for duals, which PyTorch refuses where compiled code has looked at them.
    net = net._replace(model=copy.deepcopy(net.model))
    params = {name: p for name, p in net.model.named_parameters() if p.requires_grad}
    tangents = written_out(draws)
    module = torchzero.m.ForwardGradient(n_samples=num_tangents)
    optimizer = torchzero.Optimizer(params.values(), module, torchzero.m.LR(0.0))

    def closure(backward: bool = True) -> Tensor:  # the signature that it asks for; it never goes backward here
        return net.loss_fn(net.model, *net.batch)

    def on_one_backend(work: Callable[[], Tensor]) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the one with a forward derivative
            return work()

    def slopes() -> Tensor:
        pushed = [jvp(closure, params.values(), [v[k] for v in tangents.values()])[1] for k in range(num_tangents)]
        return torch.stack(pushed).detach()

    def gradient() -> Tensor:
        net.model.zero_grad(set_to_none=True)
        return optimizer.step(closure)

    return [Rival("torchzero ForwardGradient", lambda: on_one_backend(slopes), lambda: on_one_backend(gradient))]
