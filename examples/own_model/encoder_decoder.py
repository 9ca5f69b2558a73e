"""Grow a Flax NNX encoder-decoder: python -m examples.own_model.encoder_decoder

Two stacks of layers of different depth, cross-attention, and parameters in an `nnx.State`: the library knows of no
such model.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from tritter_jax.growth import FunctionCheck, check_function, grow, plan_axes

HEAD_DIM = 8


class Block(nnx.Module):
    """Self-attention, for a decoder cross-attention, and a feed-forward layer; RMSNorm before each."""

    def __init__(self, sizes: dict[str, int], rngs: nnx.Rngs, *, cross: bool) -> None:
        def attention() -> nnx.MultiHeadAttention:
            return nnx.MultiHeadAttention(
                num_heads=sizes["heads"], in_features=sizes["hidden"], qkv_features=sizes["heads"] * HEAD_DIM,
                use_bias=False, decode=False, rngs=rngs,
            )  # fmt: skip

        self.attend, self.norm = attention(), nnx.RMSNorm(sizes["hidden"], rngs=rngs)
        if cross:
            self.cross, self.cross_norm = attention(), nnx.RMSNorm(sizes["hidden"], rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(sizes["hidden"], rngs=rngs)
        self.up = nnx.Linear(sizes["hidden"], sizes["mlp"], rngs=rngs)
        self.down = nnx.Linear(sizes["mlp"], sizes["hidden"], use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, seen: jax.Array | None = None) -> jax.Array:
        mask = None if seen is None else nnx.make_causal_mask(jnp.ones(x.shape[:2]))
        x = x + self.attend(self.norm(x), mask=mask)
        if seen is not None:
            x = x + self.cross(self.cross_norm(x), seen)
        return x + self.down(jax.nn.gelu(self.up(self.mlp_norm(x))))


class Translator(nnx.Module):
    """An encoder, whose last norm the decoder's cross-attention reads, and a decoder."""

    def __init__(self, sizes: dict[str, int], rngs: nnx.Rngs) -> None:
        d = sizes["hidden"]
        self.embed = nnx.Embed(sizes["vocab"], d, rngs=rngs)
        self.encoder = nnx.List([Block(sizes, rngs, cross=False) for _ in range(sizes["encoders"])])
        self.encoded = nnx.RMSNorm(d, rngs=rngs)
        self.decoder = nnx.List([Block(sizes, rngs, cross=True) for _ in range(sizes["decoders"])])
        self.norm = nnx.RMSNorm(d, rngs=rngs)
        self.head = nnx.Linear(d, sizes["vocab"], use_bias=False, rngs=rngs)

    def __call__(self, source: jax.Array, target: jax.Array) -> jax.Array:
        x = self.embed(source)
        for block in self.encoder:
            x = block(x)
        seen, x = self.encoded(x), self.embed(target)
        for block in self.decoder:
            x = block(x, seen)
        return self.head(self.norm(x))


def attention_rows(prefix: str, layers: str) -> dict[str, str]:
    return {
        f"{prefix}.query.kernel": f"{layers}:stack hidden:read heads:copy head_dim",
        f"{prefix}.key.kernel": f"{layers}:stack hidden:read heads:copy head_dim",
        f"{prefix}.value.kernel": f"{layers}:stack hidden:read heads:write head_dim",
        f"{prefix}.out.kernel": f"{layers}:residual heads:read head_dim hidden:write",
    }


def block_rows(prefix: str, layers: str) -> dict[str, str]:
    return attention_rows(f"{prefix}.attend", layers) | {
        f"{prefix}.norm.scale": f"{layers}:stack hidden:gain",
        f"{prefix}.mlp_norm.scale": f"{layers}:stack hidden:gain",
        f"{prefix}.up.kernel": f"{layers}:stack hidden:read mlp:copy",
        f"{prefix}.up.bias": f"{layers}:stack mlp:copy",
        f"{prefix}.down.kernel": f"{layers}:residual mlp:read hidden:write",
    }


ROWS = {
    "embed.embedding": "vocab hidden:write",
    **block_rows("encoder.*", "encoders"),
    "encoded.scale": "hidden:gain",
    **block_rows("decoder.*", "decoders"),
    **attention_rows("decoder.*.cross", "decoders"),
    "decoder.*.cross_norm.scale": "decoders:stack hidden:gain",
    "norm.scale": "hidden:gain",
    "head.kernel": "hidden:read vocab",
}
SMALL = {"encoders": 2, "decoders": 3, "hidden": 24, "heads": 3, "head_dim": HEAD_DIM, "mlp": 40, "vocab": 30}
LARGE = SMALL | {"encoders": 3, "decoders": 5, "hidden": 40, "heads": 5, "mlp": 64}


def main() -> FunctionCheck:
    small, state = nnx.split(Translator(SMALL, nnx.Rngs(0)))
    large = nnx.graphdef(nnx.eval_shape(lambda: Translator(LARGE, nnx.Rngs(0))))
    plan = plan_axes(ROWS, before=SMALL, after=LARGE)
    grown = grow(state, plan)
    tokens = jnp.arange(20).reshape(2, 10), jnp.arange(12).reshape(2, 6)
    seen = check_function(
        lambda state, tokens: nnx.merge(small, state)(*tokens), state, plan, tokens, grown=grown,
        grown_function=lambda state, tokens: nnx.merge(large, state)(*tokens),
    )  # fmt: skip
    print(plan)
    print(f"largest relative difference of the logits: {seen.max_relative:.1e} ({type(grown).__name__})")
    return seen


if __name__ == "__main__":
    main()
