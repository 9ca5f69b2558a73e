"""Models as users write them: none of them is one of ours, and each keeps its parameters in another kind of tree."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Model:
    """A tree of parameters, its rows, and its forward pass."""

    rows: dict[str, str]
    before: dict[str, int]
    after: dict[str, int]
    params: Any
    function: Callable[[Any, Any], Any]
    inputs: Any


def drawn(*shape: int, seed: int = 0) -> jax.Array:
    """Random numbers of about unit size for whatever multiplies them."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0]))


def rms(x: jax.Array, gain: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * gain


def attend(x: jax.Array, query: jax.Array, key: jax.Array, value: jax.Array, out: jax.Array) -> jax.Array:
    """Grouped attention with kernels [D, H, K], [D, N, K] and [H, K, D]."""
    q, k, v = (jnp.einsum("bsd,dhk->bshk", x, kernel) for kernel in (query, key, value))
    group = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    scores = jnp.einsum("bshk,bthk->bhst", q, k) / np.sqrt(q.shape[-1])
    scores = jnp.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -1e9)
    return jnp.einsum("bshk,hkd->bsd", jnp.einsum("bhst,bthk->bshk", jax.nn.softmax(scores), v), out)


SIZES = {"layers": 2, "hidden": 12, "heads": 4, "kv_heads": 2, "head_dim": 4, "mlp": 10, "vocab": 9}
LARGER = {"layers": 4, "hidden": 20, "heads": 8, "kv_heads": 4, "mlp": 16}


def nested_lists() -> Model:
    """A decoder as a dict with a list of blocks; query, key and value fold heads and head_dim."""
    d, h, n, k, f, v = (SIZES[name] for name in ("hidden", "heads", "kv_heads", "head_dim", "mlp", "vocab"))

    def block(seed: int) -> dict[str, Any]:
        return {
            "norm1": 1 + drawn(d, seed=seed + 1),
            "attn": {
                "wq": drawn(d, h * k, seed=seed + 2), "wk": drawn(d, n * k, seed=seed + 3),
                "wv": drawn(d, n * k, seed=seed + 4), "wo": drawn(h * k, d, seed=seed + 5),
            },
            "norm2": 1 + drawn(d, seed=seed + 6),
            "mlp": {
                "in": drawn(d, f, seed=seed + 7), "bias": drawn(f, seed=seed + 8), "out": drawn(f, d, seed=seed + 9),
            },
        }  # fmt: skip

    params = {"embed": drawn(v, d), "blocks": [block(10), block(20)], "norm": 1 + drawn(d, seed=3)}
    rows = {
        "embed": "vocab hidden:write",
        "blocks.*.norm1": "layers:stack hidden:gain",
        "blocks.*.attn.wq": "layers:stack hidden:read heads:copy*head_dim",
        "blocks.*.attn.wk": "layers:stack hidden:read kv_heads:copy*head_dim",
        "blocks.*.attn.wv": "layers:stack hidden:read kv_heads:write*head_dim",
        "blocks.*.attn.wo": "layers:residual heads:read*head_dim hidden:write",
        "blocks.*.norm2": "layers:stack hidden:gain",
        "blocks.*.mlp.in": "layers:stack hidden:read mlp:copy",
        "blocks.*.mlp.bias": "layers:stack mlp:copy",
        "blocks.*.mlp.out": "layers:residual mlp:read hidden:write",
        "norm": "hidden:tied_gain",
    }

    def forward(params: Any, tokens: Any) -> jax.Array:
        x = params["embed"][tokens]
        for block in params["blocks"]:
            a, y, d = block["attn"], rms(x, block["norm1"]), x.shape[-1]
            x += attend(y, a["wq"].reshape(d, -1, k), a["wk"].reshape(d, -1, k), a["wv"].reshape(d, -1, k),
                        a["wo"].reshape(-1, k, d))  # fmt: skip
            x += jax.nn.gelu(rms(x, block["norm2"]) @ block["mlp"]["in"] + block["mlp"]["bias"]) @ block["mlp"]["out"]
        return rms(x, params["norm"]) @ params["embed"].T

    return Model(rows, SIZES, LARGER, params, forward, np.arange(12).reshape(2, 6) % v)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Stacked:
    """Layers on axis 0 of every array, in a dataclass."""

    embed: jax.Array
    gain: jax.Array
    into: jax.Array
    out: jax.Array
    head: tuple[jax.Array, jax.Array]


def stacked_dataclass() -> Model:
    """Residual layers under `lax.scan`; a tuple of final gain and output layer."""
    d, f, v, n = 12, 10, 9, 3
    params = Stacked(
        embed=drawn(v, d), gain=1 + drawn(n, d, seed=1), into=drawn(n, f, d, seed=2), out=drawn(n, d, f, seed=3),
        head=(1 + drawn(d, seed=4), drawn(v, d, seed=5)),
    )  # fmt: skip
    rows = {
        "embed": "tokens hidden:write",
        "gain": "depth:stack hidden:gain",
        "into": "depth:stack units:copy hidden:read",
        "out": "depth:residual hidden:write units:read",
        "head.0": "hidden:gain",
        "head.1": "tokens hidden:read",
    }

    def forward(params: Stacked, tokens: Any) -> jax.Array:
        def layer(x: jax.Array, one: Any) -> tuple[jax.Array, None]:
            gain, into, out = one
            return x + jnp.tanh(rms(x, gain) @ into.T) @ out.T, None

        x, _ = jax.lax.scan(layer, params.embed[tokens], (params.gain, params.into, params.out))
        return rms(x, params.head[0]) @ params.head[1].T

    before = {"tokens": v, "hidden": d, "units": f, "depth": n}
    return Model(rows, before, {"hidden": 20, "units": 16, "depth": 5}, params, forward, np.arange(v)[None])


def linen_names() -> Model:
    """Layers of two stacks side by side in one dict, numbered in their names as Flax Linen numbers them."""
    d, f = 6, 5
    params = {
        "params": {
            **{f"Encoder_{i}": {"Dense_0": {"kernel": drawn(d, f, seed=i)},
                                "Dense_1": {"kernel": drawn(f, d, seed=9 + i)}} for i in range(2)},
            **{f"Decoder_{i}": {"kernel": drawn(d, d, seed=20 + i)} for i in range(3)},
            "Norm_0": {"scale": 1 + drawn(d, seed=40)}, "Out": {"kernel": drawn(d, 4, seed=41)},
        }
    }  # fmt: skip
    rows = {
        "params.Encoder_*.Dense_0.kernel": "encoders:stack width:read units:copy",
        "params.Encoder_*.Dense_1.kernel": "encoders:residual units:read width:write",
        "params.Decoder_*.kernel": "decoders:residual width:read width:write",
        "params.Norm_0.scale": "width:gain",
        "params.Out.kernel": "width:read classes",
    }

    def forward(params: Any, x: Any) -> jax.Array:
        inside, x = params["params"], jnp.asarray(x)
        x = jnp.concatenate([x, jnp.zeros((*x.shape[:-1], 0))], -1)
        for name in sorted(inside):
            if name.startswith("Encoder"):
                x += jax.nn.relu(x @ inside[name]["Dense_0"]["kernel"]) @ inside[name]["Dense_1"]["kernel"]
        for name in sorted(inside):
            if name.startswith("Decoder"):
                x += x @ inside[name]["kernel"]
        return rms(x, inside["Norm_0"]["scale"]) @ inside["Out"]["kernel"]

    before = {"encoders": 2, "decoders": 3, "width": d, "units": f, "classes": 4}
    after = {"encoders": 3, "decoders": 4, "units": 9}
    return Model(rows, before, after, params, forward, np.ones((2, d)))


MODELS = {model.__name__: model for model in (nested_lists, stacked_dataclass, linen_names)}
