"""The arithmetic of one decoder layer: norm, projection, attention, feed-forward.

Axis letters: B batch, S query positions, T key positions, D hidden, H query heads, N key and value heads,
K width of a head, F feed-forward, V vocabulary, L layers.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Key, Shaped, UInt16
from tprog import ModelConfig

from tritter_jax.dtypes import wide_dtype
from tritter_jax.model.remat import ATTENTION
from tritter_jax.model.rope import Rotation, rotate
from tritter_jax.model.table_module import TableModule
from tritter_jax.model.ternary import quantize_activations, quantize_weight
from tritter_jax.sharding import splits_parameters

_LEAST_QUERIES = 64
_MOST_BLOCKS = 8  # each is compiled for itself


def rms_norm(x: Float[Array, "... d"], gain: Float[Array, " d"], eps: float) -> Float[Array, "... d"]:
    """Root-mean-square normalisation over the last axis, at least in float32 inside, in `x.dtype` outside.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
    """
    wide = x.astype(wide_dtype(x.dtype))
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + jnp.asarray(eps, wide.dtype))).astype(x.dtype) * _gain(gain, x)


def _gain(gain: Float[Array, " d"], x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    return jnp.broadcast_to(gain.astype(x.dtype), x.shape)


def project(
    x: Float[Array, "..."],
    kernel: Float[Array, "..."],
    bias: Float[Array, "..."] | None,
    *,
    inputs: int = 1,
    ternary: bool = False,
) -> Float[Array, "..."]:
    """Contract the last `inputs` axes of `x` with those of `kernel`, in `x.dtype`; ternary where asked."""
    if ternary:
        kernel = quantize_weight(kernel)
        x = quantize_activations(x, tuple(range(-inputs, 0)))
    batch, out = x.shape[: x.ndim - inputs], kernel.shape[: kernel.ndim - inputs]
    y = matmul(x.reshape(*batch, -1), kernel.reshape(math.prod(out), -1)).reshape(*batch, *out)
    return y if bias is None else y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)


def matmul(x: Float[Array, "... d"], kernel: Float[Array, "f d"]) -> Float[Array, "... f"]:
    """Multiply every position by a matrix, whose rows are the outputs, in `x.dtype`.

    As a product of two matrices: the gradient of `kernel` then sums over one axis. Over several, XLA on the CPU first
    writes out a transposed copy, which costs more than the product.
    """
    flat = x.reshape(-1, x.shape[-1])
    widens = kernel.dtype == jnp.bfloat16 and x.dtype != jnp.bfloat16 and not splits_parameters()
    product = _run_by_run if widens and len(flat) <= _FEW else _at_once
    return product(flat, kernel).reshape(*x.shape[:-1], kernel.shape[0])


def _at_once(x: Float[Array, "p d"], kernel: Float[Array, "f d"]) -> Float[Array, "p f"]:
    return x @ kernel.astype(x.dtype).T


_FEW = 64
_ENTRIES_AT_ONCE = 1 << 20


def _run_by_run(x: Float[Array, "p d"], kernel: Float[Array, "f d"]) -> Float[Array, "p f"]:
    """Of few positions, widening the kernel takes longer than the product; some rows of it stay in the caches.

    XLA would widen a bfloat16 array whole before it takes rows of it, but not its bits.
    """
    most = max(1, _ENTRIES_AT_ONCE // kernel.shape[1])
    rows = next(count for count in range(min(most, len(kernel)), 0, -1) if len(kernel) % count == 0)
    bits = jax.lax.bitcast_convert_type(kernel, jnp.uint16).reshape(-1, rows, kernel.shape[1])

    def product(part: UInt16[Array, "r d"]) -> Float[Array, "r p"]:
        wide = jax.lax.bitcast_convert_type(part.astype(jnp.uint32) << 16, jnp.float32)
        return wide.astype(x.dtype) @ x.T

    return jax.lax.map(product, bits).reshape(len(kernel), len(x)).T


_QUERIES_AT_ONCE = 1024
"""Longer sequences attend block by block, so that their scores, which grow with the square, are never all there."""


def attend(
    q_BSHK: Float[Array, "b s h k"],
    k_BTNK: Float[Array, "b t n k"],
    v_BTNK: Float[Array, "b t n k"],
    mask: Bool[Array, "b 1 s t"],
) -> Float[Array, "b s h k"]:
    """Scaled dot-product attention; consecutive query heads share a key and value head.

    Of a long sequence a block of queries at a time; the backward pass computes its scores again.
    """
    dtype = k_BTNK.dtype
    if not _is_long(q_BSHK.shape[1]):
        return _attend(q_BSHK, k_BTNK, v_BTNK, mask)
    # The gradients of keys and values add up over the blocks, in the dtype that these have outside the loop.
    keys, values = (x.astype(wide_dtype(dtype)) for x in (k_BTNK, v_BTNK))

    def block(inputs: tuple[Float[Array, "b q h k"], Bool[Array, "b 1 q t"]]) -> Float[Array, "b q h k"]:
        return _attend(inputs[0], keys.astype(dtype), values.astype(dtype), inputs[1])

    blocks = [_in_blocks(x, axis, _QUERIES_AT_ONCE) for x, axis in ((q_BSHK, 1), (mask, 2))]
    y_JBQHK = jax.lax.map(jax.checkpoint(block, prevent_cse=False), tuple(blocks))
    return jnp.moveaxis(y_JBQHK, 0, 1).reshape(q_BSHK.shape)


def _is_long(length: int) -> bool:
    return length > _QUERIES_AT_ONCE and length % _QUERIES_AT_ONCE == 0


def _in_blocks(x: Shaped[Array, "..."], axis: int, size: int) -> Shaped[Array, "..."]:
    """An axis cut into blocks, which are counted by a new axis 0."""
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis, 0)


def _attend(
    q_BSHK: Float[Array, "b s h k"],
    k_BTNK: Float[Array, "b t n k"],
    v_BTNK: Float[Array, "b t n k"],
    mask: Bool[Array, "b 1 s t"],
) -> Float[Array, "b s h k"]:
    """Attention of all queries at once.

    Scores and softmax are at least float32. `jax.nn.dot_product_attention` computes its softmax in float32 even for
    float64, and gradients in float64 would then be no better than float32's.

    Source: Vaswani et al. 2017, "Attention Is All You Need", equation 1; Ainslie et al. 2023, "GQA".
    """
    batch, length, heads, width = q_BSHK.shape
    wide = wide_dtype(q_BSHK.dtype)
    # Query heads that share a key head make one matrix: no product, in the backward pass neither, sums over two axes.
    q_BNGSK = q_BSHK.reshape(batch, length, k_BTNK.shape[2], -1, width).transpose(0, 2, 3, 1, 4)
    groups, k_BNTK, v_BNTK = q_BNGSK.shape[2], k_BTNK.swapaxes(1, 2), v_BTNK.swapaxes(1, 2)
    q_BNRK = q_BNGSK.reshape(batch, -1, groups * length, width)
    scores_BNRT = jnp.einsum("bnrk,bntk->bnrt", q_BNRK, k_BNTK, preferred_element_type=wide)
    scores_BNGST = scores_BNRT.reshape(*q_BNGSK.shape[:4], -1) * jnp.asarray(width**-0.5, wide)
    hidden = jnp.asarray(jnp.finfo(wide).min / 2, wide)
    seen = jnp.broadcast_to(mask[:, :, None], scores_BNGST.shape)
    weights_BNGST = jax.nn.softmax(jnp.where(seen, scores_BNGST, hidden), axis=-1).astype(v_BTNK.dtype)
    y_BNRK = jnp.einsum("bnrt,bntk->bnrk", weights_BNGST.reshape(scores_BNRT.shape), v_BNTK)
    return y_BNRK.reshape(q_BNGSK.shape).transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def attend_causally(
    q_BSHK: Float[Array, "b s h k"],
    k_BSNK: Float[Array, "b s n k"],
    v_BSNK: Float[Array, "b s n k"],
    mask: Bool[Array, "b 1 s s"],
) -> Float[Array, "b s h k"]:
    """`attend` where no query may see a later key: block by block of queries, each with the keys up to its own end.

    Nearly half of the scores are then never computed, and on a processor those of a block fit into its caches. Of a
    long sequence all are computed, in a loop whose blocks take the same memory one after the other.
    """
    length = q_BSHK.shape[1]
    if _is_long(length):
        return attend(q_BSHK, k_BSNK, v_BSNK, mask)
    block = max(_LEAST_QUERIES, -(-length // _MOST_BLOCKS))
    ends = [min(start + block, length) for start in range(0, length, block)]
    parts = [
        attend(q_BSHK[:, start:end], k_BSNK[:, :end], v_BSNK[:, :end], mask[:, :, start:end, :end])
        for start, end in zip((0, *ends), ends, strict=False)
    ]
    return jnp.concatenate(parts, axis=1)


KeysValues = tuple[Float[Array, "b _ n k"], Float[Array, "b _ n k"]]
"""Keys and values of some positions, each [B, T, N, K]."""
Store = Callable[[KeysValues], KeysValues]
"""From the keys and values of the positions at hand to those to attend to, such as a cache with them in it."""


def _only_these(now: KeysValues) -> KeysValues:
    return now


class Attention(TableModule):
    """Causal grouped-query attention with rotary embedding."""

    def __call__(
        self,
        x: Float[Array, "b s d"],
        rotation: Rotation,
        mask: Bool[Array, "b 1 s t"],
        store: Store = _only_these,
    ) -> Float[Array, "b s d"]:
        """Attend to what `store` gives; `mask` is true where a query (third axis) may see a key (fourth).

        Without a `store` the keys are those of the queries' own positions, and the mask shows none of a later one.
        """
        config, ternary = self.config, bool(self.config.ternary)
        q_BSHK, k_BTNK, v_BTNK = (
            checkpoint_name(project(x, kernel[...], self.optional(bias), ternary=ternary), ATTENTION)
            for kernel, bias in ((self.query, "query_bias"), (self.key, "key_bias"), (self.value, "value_bias"))
        )
        if (gain := self.optional("query_norm")) is not None:
            q_BSHK = rms_norm(q_BSHK, gain, config.norm_eps)
        if (gain := self.optional("key_norm")) is not None:
            k_BTNK = rms_norm(k_BTNK, gain, config.norm_eps)
        q_BSHK, k_BTNK = rotate(q_BSHK, rotation), rotate(k_BTNK, rotation)
        attention = attend_causally if store is _only_these else attend
        y_BSHK = attention(q_BSHK, *store((k_BTNK, v_BTNK)), mask)
        if (gain := self.optional("sub_norm")) is not None:
            flat = y_BSHK.reshape(*y_BSHK.shape[:2], -1)
            y_BSHK = rms_norm(flat, gain.reshape(-1), config.norm_eps).reshape(y_BSHK.shape)
        y_BSD = project(y_BSHK, self.out[...], self.optional("out_bias"), inputs=2, ternary=ternary)
        return checkpoint_name(y_BSD, ATTENTION)


def _relu2(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.square(jax.nn.relu(x))


class FeedForward(TableModule):
    """Gated feed-forward layer: down(activation(gate x) * up x)."""

    def __call__(self, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        """Apply the layer at every position."""
        ternary = bool(self.config.ternary)
        activation = {"silu": jax.nn.silu, "relu2": _relu2}[self.config.family_record.activation]
        gate_BSF = project(x, self.gate[...], self.optional("gate_bias"), ternary=ternary)
        up_BSF = project(x, self.up[...], self.optional("up_bias"), ternary=ternary)
        h_BSF = activation(gate_BSF) * up_BSF
        if (gain := self.optional("sub_norm")) is not None:
            h_BSF = rms_norm(h_BSF, gain, self.config.norm_eps)
        return project(h_BSF, self.down[...], self.optional("down_bias"), ternary=ternary)


class Block(TableModule):
    """One decoder layer; its parameters carry a leading layer axis until the decoder's scan takes it off."""

    def __init__(self, config: ModelConfig, key: Key[Array, ""]) -> None:
        super().__init__(config, ("layers",), key)
        self.attention = Attention(config, ("layers", "attention"), key)
        self.mlp = FeedForward(config, ("layers", "mlp"), key)

    def __call__(
        self,
        x: Float[Array, "b s d"],
        rotation: Rotation,
        mask: Bool[Array, "b 1 s t"],
        store: Store = _only_these,
    ) -> Float[Array, "b s d"]:
        """Add attention, then the feed-forward layer, to the residual stream."""
        return self.add_mlp(self.add_attention(x, rotation, mask, store))

    def add_attention(
        self,
        x: Float[Array, "b s d"],
        rotation: Rotation,
        mask: Bool[Array, "b 1 s t"],
        store: Store = _only_these,
    ) -> Float[Array, "b s d"]:
        """The first half of the layer."""
        return x + self.attention(rms_norm(x, self.attention_norm[...], self.config.norm_eps), rotation, mask, store)

    def add_mlp(self, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        """The second half."""
        return x + self.mlp(rms_norm(x, self.mlp_norm[...], self.config.norm_eps))
