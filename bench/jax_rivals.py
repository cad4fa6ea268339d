"""JAX, compiled, on the same nets with the same weights: the rival outside PyTorch. Perceptrons and GPT-2 only.

JAX has no thread of its own to be timed by: XLA is told to compute on one, and clocks count the whole process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.draws import Factors, trainable, written_out
from bench.nets import Net
from bench.rivals import Rival

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
Loss = Callable[[Mapping[str, Any]], Any]


def jax_rivals(net: Net, draws: Mapping[str, Factors], num_tangents: int) -> list[Rival]:
    """jvp, linearize and the gradient in reverse; none where JAX is missing or the net is not written for it.

    Args:
        net: model, loss and batch.
        draws: the tangents that `slopes()` pushes.
        num_tangents: K.
    """
    os.environ.setdefault("XLA_FLAGS", _ONE_THREAD)
    try:
        import jax
    except ImportError:
        return []
    loss = _loss_of(net)
    if loss is None:
        return []
    params = {name: jax.numpy.asarray(p.numpy()) for name, p in trainable(net.model).items()}
    tangents = {name: jax.numpy.asarray(t.numpy()) for name, t in written_out(draws).items()}
    one = {name: t[0] for name, t in tangents.items()}

    def push(p: Mapping[str, Any], v: Mapping[str, Any]) -> Any:
        return jax.jvp(loss, (p,), (v,))[1]

    # The weights are arguments: a constant could be folded into the compiled code.
    pushed = jax.jit(push) if num_tangents == 1 else jax.jit(jax.vmap(push, in_axes=(None, 0)))

    @jax.jit
    def linearized(p: Mapping[str, Any], v: Mapping[str, Any]) -> Any:
        """The primal once, its linear part for every tangent."""
        linear = jax.linearize(loss, p)[1]
        return linear(v) if num_tangents == 1 else jax.vmap(linear)(v)

    def slopes(along: Callable[..., Any]) -> Tensor:
        found = along(params, one if num_tangents == 1 else tangents)
        return torch.from_numpy(jax.device_get(found).copy()).reshape(num_tangents)

    def drawn(along: Callable[..., Any], key: Any, p: Mapping[str, Any]) -> Any:
        """Draw, push, combine, all compiled: the forward gradient as a JAX user would write it."""
        keys = jax.random.split(key, len(p))
        lead = () if num_tangents == 1 else (num_tangents,)
        v = {n: jax.random.normal(k, (*lead, *x.shape)) for (n, x), k in zip(p.items(), keys, strict=True)}
        c = along(p, v)
        return {name: jax.numpy.tensordot(c, x, len(lead)) / num_tangents for name, x in v.items()}

    def forward(name: str, along: Callable[..., Any]) -> Rival:
        estimate = jax.jit(lambda key, p: drawn(along, key, p))
        gradient = lambda: _wait(estimate(jax.random.key(0), params))
        return Rival(name, lambda: slopes(along), gradient, counted=False)

    reverse = jax.jit(jax.grad(loss))
    plain = "jvp" if num_tangents == 1 else "vmap(jvp)"
    around = "linearize" if num_tangents == 1 else "vmap of linearize"

    def filled() -> None:
        grads = _wait(reverse(params))
        for key, p in net.model.named_parameters():
            if key in grads:
                p.grad = torch.from_numpy(jax.device_get(grads[key]).copy())

    # Of the wide perceptron XLA's gradient in float32 is 6e-4 off the one in float64, PyTorch's 5e-7.
    backward = Rival("JAX jit(grad)", None, filled, tolerance=1e-3, counted=False)
    return [forward(f"JAX jit({plain})", pushed), forward(f"JAX jit({around})", linearized), backward]


def _wait(tree: Any) -> Any:
    import jax

    return jax.block_until_ready(tree)


def _loss_of(net: Net) -> Loss | None:
    if isinstance(net.model, nn.Sequential) and all(isinstance(m, nn.Linear | nn.ReLU) for m in net.model):
        return _perceptron(net)
    if type(net.model).__name__ == "GPT2LMHeadModel":
        return _gpt2(net)
    return None


def _cross_entropy(logits: Any, labels: Any) -> Any:
    import jax

    rows = jax.nn.log_softmax(logits.reshape(-1, logits.shape[-1]))
    return -rows[jax.numpy.arange(rows.shape[0]), labels.reshape(-1)].mean()


def _perceptron(net: Net) -> Loss:
    import jax

    x, labels = (jax.numpy.asarray(b.numpy()) for b in net.batch)
    layers = [name for name, module in net.model.named_children() if isinstance(module, nn.Linear)]

    def loss(p: Mapping[str, Any]) -> Any:
        h = x
        for i, name in enumerate(layers):
            h = (jax.nn.relu(h) if i else h) @ p[f"{name}.weight"].T + p[f"{name}.bias"]
        return _cross_entropy(h, labels)

    return loss


def _gpt2(net: Net) -> Loss:
    import jax
    from jax import numpy as jnp

    config: Any = net.model.config
    tokens = jnp.asarray(net.batch[0].numpy())
    heads, length = config.n_head, tokens.shape[1]
    unseen = jnp.triu(jnp.ones((length, length), bool), 1)

    def norm(p: Mapping[str, Any], name: str, h: Any) -> Any:
        centred = h - h.mean(-1, keepdims=True)
        scaled = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + config.layer_norm_epsilon)
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(p: Mapping[str, Any], name: str, h: Any) -> Any:
        return h @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def attention(p: Mapping[str, Any], name: str, h: Any) -> Any:
        q, k, v = jnp.split(linear(p, f"{name}.c_attn", h), 3, -1)
        q, k, v = (z.reshape(*z.shape[:2], heads, -1).swapaxes(1, 2) for z in (q, k, v))
        scores = jnp.where(unseen, -jnp.inf, q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5)
        out = (jax.nn.softmax(scores) @ v).swapaxes(1, 2)
        return linear(p, f"{name}.c_proj", out.reshape(*out.shape[:2], -1))

    def loss(p: Mapping[str, Any]) -> Any:
        h = p["transformer.wte.weight"][tokens] + p["transformer.wpe.weight"][:length]
        for i in range(config.n_layer):
            at = f"transformer.h.{i}"
            h = h + attention(p, f"{at}.attn", norm(p, f"{at}.ln_1", h))
            inner = jax.nn.gelu(linear(p, f"{at}.mlp.c_fc", norm(p, f"{at}.ln_2", h)), approximate=True)
            h = h + linear(p, f"{at}.mlp.c_proj", inner)
        logits = norm(p, "transformer.ln_f", h) @ p["transformer.wte.weight"].T
        return _cross_entropy(logits[:, :-1], tokens[:, 1:])

    return loss
