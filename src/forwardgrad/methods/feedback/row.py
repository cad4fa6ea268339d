r"""A net as a row of segments, cut before every matrix but the first: what all feedback methods share.

Shapes: B batch, O outputs of the net, N_l units of the hidden activation h_l [B, *s_l] that enters layer l, K tangents.
The output is y [B, *o], its error e = dL/dy. With a signal delta_l in the place of dL/dh_l every segment is
differentiated by itself, and its tape dropped before the next one runs: memory does not grow with the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forwardgrad.errors import InputError, RungError
from forwardgrad.estimate import Estimate
from forwardgrad.forward_ad import push_forward
from forwardgrad.methods.backprop import averaged
from forwardgrad.methods.forward import at_full_precision
from forwardgrad.objective import Params, finite
from forwardgrad.tangents import Key, Sampler

Draw = Callable[[str, Tensor], Tensor]
Signal = Callable[[str, Tensor], Tensor]


class Output(NamedTuple):
    """What a forward pass gives, and what the loss makes of it.

    Args:
        error: e, [B, O].
        tangents: d, [K, B, O]; sum over l of J_l p_l. K = 0 where nothing was pushed.
    """

    error: Tensor
    tangents: Tensor

    @property
    def slopes(self) -> Tensor:
        """[K], the slopes of the loss along the perturbations."""
        return torch.einsum("bo,kbo->k", self.error, self.tangents)


def drawn(sample: Sampler, num_tangents: int, key: Key) -> Draw:
    """Draws p_l [K, *h.shape] for a hidden activation h; again and again the same, so that none need be kept.

    Args:
        sample: of what kind.
        num_tangents: K.
        key: with the path of the layer it names the draw.
    """

    def draw(name: str, h: Tensor) -> Tensor:
        with at_full_precision({name: h}):
            return sample({name: h.detach()}, num_tangents, key)[name].dense()

    return draw


def run(objective: Any, params: Params, draw: Draw | None = None, num_tangents: int = 0) -> Output:
    r"""A forward pass, in which every hidden activation moves along tangents of its own where there is a draw.

    .. math:: h_l \leftarrow h_l + \sum_k s_k p_l^k, \qquad d^k = \partial y / \partial s_k \;\text{at}\; s = 0

    Args:
        objective: on the rung `Sited`.
        params: name -> tensor.
        draw: gives p_l [K, *h.shape]; None for a plain forward pass.
        num_tangents: K.

    Raises:
        RungError: a prediction or a hidden activation that does not have one row per sample, a layer used twice, a
            loss that also depends on parameters beside the prediction.
        NonFiniteError: the loss.
    """

    def predict(moved: Mapping[str, Tensor]) -> Tensor:
        def visit(name: str, h: Tensor, first: bool) -> Tensor:
            return h if draw is None or first else h + torch.einsum("k,k...->...", moved["s"], draw(name, h.detach()))

        with objective.visiting(hidden(visit)):
            return rows(objective.predict(params))

    if draw is None:
        y, d = predict({}), None
    else:
        s = {"s": next(iter(params.values())).new_zeros(num_tangents)}
        eye = {"s": torch.diag(1 + s["s"])}
        y, d, *_ = push_forward(predict, s, eye, locate=objective.locate)
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        loss = objective.loss(leaf)
        finite(loss.detach())
        if any(x is not leaf for x in leaves(loss)):
            needs, found = "feedback needs a loss of the prediction", "a loss that also looks at parameters"
            raise RungError(needs, found, "leave penalties to the optimizer's weight_decay", path="loss_fn")
        (e,) = torch.autograd.grad(loss, leaf)
    d = d if d is not None else y.new_empty(0, *y.shape)
    wide = torch.promote_types(y.dtype, torch.float32)  # running means in half precision would stand still
    return Output(e.flatten(1).to(wide), d.flatten(2).to(wide))


def local(objective: Any, params: Params, signal: Signal, out: Output, key: Key | None) -> Estimate:
    """The estimate whose segments are differentiated one by one, each with its signal; the last one is exact.

    Args:
        objective: on the rung `Sited`.
        params: name -> tensor.
        signal: (path of the layer, h_l) -> delta_l, of the shape of h_l.
        out: of the forward pass.
        key: of the draw.

    Raises:
        RungError: a net that is not a row of segments.
    """
    grad: dict[str, Tensor] = {}
    names: dict[int, str] = {}

    def close(path: str, h: Tensor, delta: Tensor | None) -> None:
        reached = {names[id(x)]: x for x in leaves(h)}
        for name in reached:
            if name in grad:
                raise RungError(
                    "feedback needs layers in a row, each fed by the one before it alone",
                    f"`{name}`, used before, once more on the way to this layer",
                    "use fg.ForwardGradient, which takes every net",
                    path=path,
                )
        for name, g in zip(reached, torch.autograd.grad(h, list(reached.values()), delta), strict=True):
            with torch.no_grad():
                grad[name] = averaged(objective, g)

    def visit(path: str, h: Tensor, first: bool) -> Tensor:
        if first:
            return h
        with torch.no_grad(), at_full_precision(params):
            delta = signal(path, h.detach()).to(h.dtype)
        if h.requires_grad:
            close(path, h, delta)
        return h.detach()

    with torch.enable_grad(), objective.visiting(hidden(visit)):
        at = {name: p.detach().requires_grad_() for name, p in params.items()}
        names.update({id(leaf): name for name, leaf in at.items()})
        loss = objective(at)
        if loss.requires_grad:
            close("loss_fn", loss, None)
    return Estimate(averaged(objective, loss.detach()), grad, out.slopes, key, objective.aux)


def hidden(visit: Callable[[str, Tensor, bool], Tensor]) -> Callable[[str, Tensor], Tensor]:
    """Tells a visit whether the layer is the first, and keeps what is no activation (token ids) from it."""
    count = 0

    def shown(name: str, h: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return visit(name, h, count == 1) if h.is_floating_point() else h

    return shown


def rows(y: Any) -> Tensor:
    """The prediction, if it has a row per sample.

    Raises:
        RungError: it has not.
    """
    if isinstance(y, Tensor) and y.ndim > 1 and y.is_floating_point():
        return y
    found = f"shape {list(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
    cure = "return the logits from the model, or use fg.ForwardGradient"
    raise RungError("feedback needs a prediction [batch, outputs]", found, cure, path="model")


def per_sample(path: str, h: Tensor, error: Tensor) -> Tensor:
    """h as [B, N_l], in the precision of the error.

    Raises:
        RungError: its first dimension is not the batch.
    """
    if h.shape[0] == len(error):
        return h.flatten(1).to(error)
    found, cure = f"shape {list(h.shape)} in a batch of {len(error)}", "put the batch first, or use fg.ForwardGradient"
    raise RungError("feedback needs hidden activations [batch, ...]", found, cure, path=path)


def fitting(path: str, matrix: Tensor, error: Tensor, h: Tensor) -> Tensor:
    """A feedback matrix [O, *s_l], if it fits output and activation.

    Raises:
        InputError: it was learned on another net.
    """
    shape = (error.shape[1], *h.shape[1:])
    if tuple(matrix.shape) == shape:
        return matrix.to(error)
    needs, found = f"feedback to this layer needs shape {list(shape)}", f"{list(matrix.shape)}"
    raise InputError(needs, found, "train one model, with inputs of one size, per method object", path=path)


def leaves(x: Tensor) -> Iterator[Tensor]:
    """The leaves of the tape that leads to x, each once."""
    seen: set[Any] = set()
    todo = [x.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo.extend(following for following, _ in node.next_functions)
