"""Grow a pytree of your own: python -m examples.own_model.pytree

A decoder in plain JAX, as one writes it in an afternoon: nested dicts, a list of blocks, grouped-query attention.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tritter_jax.growth import FunctionCheck, check_function, grow, plan_axes

HEAD_DIM = 8

# Every leaf of the tree by its path, `*` for the number of a layer, and every axis of it with its role.
ROWS = {
    "embed": "vocab hidden:write",
    "blocks.*.norm": "layers:stack hidden:gain",
    "blocks.*.wq": "layers:stack hidden:read heads:copy*head_dim",
    "blocks.*.wk": "layers:stack hidden:read kv_heads:copy*head_dim",
    "blocks.*.wv": "layers:stack hidden:read kv_heads:write*head_dim",
    "blocks.*.wo": "layers:residual heads:read*head_dim hidden:write",
    "blocks.*.up": "layers:stack hidden:read mlp:copy",
    "blocks.*.down": "layers:residual mlp:read hidden:write",
    "norm": "hidden:gain",
    "head": "hidden:read vocab",
}
SMALL = {"layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "head_dim": HEAD_DIM, "mlp": 64, "vocab": 50}
LARGE = {"layers": 3, "hidden": 48, "heads": 8, "kv_heads": 4, "mlp": 96}


def init(sizes: dict[str, int], seed: int = 0) -> dict:
    keys = iter(jax.random.split(jax.random.key(seed), 100))
    d, f, v = sizes["hidden"], sizes["mlp"], sizes["vocab"]
    q, kv = sizes["heads"] * HEAD_DIM, sizes["kv_heads"] * HEAD_DIM

    def draw(rows: int, columns: int) -> jax.Array:
        return jax.random.normal(next(keys), (rows, columns)) / np.sqrt(rows)

    blocks = [
        {"norm": jnp.ones(d), "wq": draw(d, q), "wk": draw(d, kv), "wv": draw(d, kv), "wo": draw(q, d),
         "up": draw(d, f), "down": draw(f, d)}
        for _ in range(sizes["layers"])
    ]  # fmt: skip
    return {"embed": draw(v, d), "blocks": blocks, "norm": jnp.ones(d), "head": draw(d, v)}


def rms_norm(x: jax.Array, gain: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * gain


def attention(x: jax.Array, block: dict) -> jax.Array:
    q, k, v = ((x @ block[name]).reshape(*x.shape[:2], -1, HEAD_DIM) for name in ("wq", "wk", "wv"))
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)  # shares k and v among groups of queries
    return mixed.reshape(*x.shape[:2], -1) @ block["wo"]


def forward(params: dict, tokens: jax.Array) -> jax.Array:
    x = params["embed"][tokens]
    for block in params["blocks"]:
        x = x + attention(rms_norm(x, block["norm"]), block)
        x = x + jax.nn.gelu(x @ block["up"]) @ block["down"]
    return rms_norm(x, params["norm"]) @ params["head"]


def main() -> FunctionCheck:
    plan = plan_axes(ROWS, before=SMALL, after=LARGE)
    params, tokens = init(SMALL), jnp.arange(24).reshape(2, 12)
    grown = grow(params, plan)
    seen = check_function(forward, params, plan, tokens, grown=grown)
    print(plan)
    for name, tree in (("before", params), ("after", grown)):
        print(
            f"{name}: {len(tree['blocks'])} blocks, embed {tree['embed'].shape}, wq {tree['blocks'][0]['wq'].shape}"
        )
    print(f"largest relative difference of the logits: {seen.max_relative:.1e}")
    return seen


if __name__ == "__main__":
    main()
