"""The decoder: a Flax NNX module for those who want one, and pure functions over its parameter tree.

params = init_params(config, seed=0)            # nested dict of arrays, layers stacked on axis 0
logits = apply(params, tokens, config)          # plain jax: jit, grad, vmap and optax work on it as they are
model = Decoder.from_params(params, config)     # the same as a Flax module
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped
from tprog import ModelConfig, UsageError, check_tree, param_specs
from tprog.tree import nest

from tritter_jax.dtypes import require_precision
from tritter_jax.model.layers import Block, matmul, rms_norm
from tritter_jax.model.remat import DEFAULT, REMAT
from tritter_jax.model.rope import Rotation, rotation
from tritter_jax.model.table_module import TableModule, initial_value
from tritter_jax.model.token_ids import check_token_ids
from tritter_jax.sharding import look_up, mesh_in_use, on_automatic, split_batch

Params = dict[str, Any]
"""A nested dict of arrays as `tprog.params` describes it."""


class Decoder(TableModule):
    """A decoder-only language model of any family in `tprog.FAMILIES`.

    Args:
        config: shape and arithmetic.
        rngs: source of the initialisation's key (stream `params`).
        dtype: dtype of the computation; that of the embedding when None.
        remat: what the backward pass computes again, a key of `tritter_jax.model.REMAT`.

    Raises:
        UsageError: there is no such policy.

    Example:
        >>> from flax import nnx
        >>> import jax.numpy as jnp, tprog
        >>> config = tprog.ModelConfig(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2,
        ...                            intermediate_size=48, vocab_size=64)
        >>> Decoder(config, rngs=nnx.Rngs(0))(jnp.arange(6).reshape(1, 6)).shape
        (1, 6, 64)
    """

    def __init__(
        self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: str | None = None, remat: str = DEFAULT
    ) -> None:
        key = rngs.params()
        super().__init__(config, (), key)
        self.layers = Block(config, key)
        self.dtype = dtype
        self.stored = UsageError.choose("remat", remat, REMAT).saveable

    @classmethod
    def from_params(
        cls, params: Mapping[str, Any], config: ModelConfig, *, dtype: str | None = None, remat: str = DEFAULT
    ) -> "Decoder":
        """The module that holds a tree of parameters.

        Raises:
            ParameterError: the tree is not that of `config`.
        """
        check_tree(params, config)
        graph, state = _skeleton(config, dtype, remat)
        state = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(state, dict(params))
        return nnx.merge(graph, state)

    def __call__(
        self,
        tokens: Int[Array, "b s"],
        attention_mask: Shaped[Array, "b s"] | None = None,
        positions: Int[Array, "b s"] | None = None,
    ) -> Float[Array, "b s v"]:
        """Logits of the next token at every position.

        Args:
            tokens: token ids below `vocab_size`.
            attention_mask: non-zero where a token is real; padding, at either end, is not attended to.
            positions: positions for the rotary embedding; 0, 1, 2, ... when None.
        """
        x = self.features(tokens, attention_mask, positions)
        return matmul(x, self.output)

    def features(
        self,
        tokens: Int[Array, "b s"],
        attention_mask: Shaped[Array, "b s"] | None = None,
        positions: Int[Array, "b s"] | None = None,
    ) -> Float[Array, "b s d"]:
        """What the last norm gives; the logits are its product with `output`."""
        x, turn, mask = self.begin(tokens, attention_mask, positions)
        graph, stacked = nnx.split(self.layers)

        def layer(x: Float[Array, "b s d"], state: nnx.State) -> tuple[Float[Array, "b s d"], None]:
            return split_batch(nnx.merge(graph, state)(split_batch(x), turn, mask)), None

        x, _ = jax.lax.scan(jax.checkpoint(layer, policy=self.stored, prevent_cse=False), x, stacked)
        return rms_norm(x, self.norm[...], self.config.norm_eps)

    def begin(
        self,
        tokens: Int[Array, "b s"],
        attention_mask: Shaped[Array, "b s"] | None = None,
        positions: Int[Array, "b s"] | None = None,
    ) -> tuple[Float[Array, "b s d"], Rotation, Bool[Array, "b 1 s s"]]:
        """What the first layer takes: the embedded tokens, the rotation of each position, and who sees whom."""
        embed = self.embed[...]
        check_token_ids(tokens, self.config.vocab_size)
        x = look_up(embed, tokens).astype(self.dtype or embed.dtype)
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        turn = rotation(self.config, positions, x.dtype)
        return x, turn, visible_keys(tokens, attention_mask, self.config.sliding_window)

    @property
    def output(self) -> Float[Array, "v d"]:
        """What turns features into logits: the output layer, or the embedding where they are tied."""
        return jnp.asarray((self.embed if self.config.tie_embeddings else self.lm_head)[...])

    def finish(self, x: Float[Array, "b s d"]) -> Float[Array, "b s v"]:
        """Logits from what the last layer gives."""
        x = rms_norm(x, self.norm[...], self.config.norm_eps)
        return matmul(x, self.output)


def visible_keys(
    tokens: Int[Array, "b s"], keep: Shaped[Array, "b s"] | None, window: int | None
) -> Bool[Array, "b 1 s s"]:
    """True where a query (third axis) may see a key (fourth): not after it, not padding, not out of its window."""
    batch, length = tokens.shape
    query, key = jnp.arange(length)[:, None], jnp.arange(length)[None, :]
    visible = jnp.broadcast_to(key, (length, length)) <= jnp.broadcast_to(query, (length, length))
    if window is not None:
        visible &= (query - key) < window
    mask = jnp.broadcast_to(visible, (batch, 1, length, length))
    return mask if keep is None else mask & (keep != 0)[:, None, None, :]


@lru_cache(maxsize=64)
def _skeleton(config: ModelConfig, dtype: str | None, remat: str) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype, remat=remat)))


def apply(
    params: Any,
    tokens: Int[Array, "b s"],
    config: ModelConfig,
    *,
    attention_mask: Shaped[Array, "b s"] | None = None,
    positions: Int[Array, "b s"] | None = None,
    dtype: str | None = None,
    remat: str = DEFAULT,
) -> Float[Array, "b s v"]:
    """Logits of the next token at every position, as a pure function of the parameters.

    Where arrays lie on a mesh the batch is split over it, whether or not the mesh is set.

    Args:
        params: tree of arrays as `tprog.params` describes it.
        tokens: token ids below `vocab_size`.
        config: the configuration of `params`.
        attention_mask: non-zero where a token is real.
        positions: positions for the rotary embedding; 0, 1, 2, ... when None.
        dtype: dtype of the computation; that of the embedding when None.
        remat: what the backward pass computes again, a key of `tritter_jax.model.REMAT`.

    Raises:
        ParameterError: `params` is not a tree of `config`.
        UsageError: there is no such policy; the axes of the mesh are explicit within `jax.jit`; or, where `tokens` is
            not traced, an id of it is outside the vocabulary.
    """
    check_tree(params, config)
    given = (params, tokens, attention_mask, positions)
    with mesh_in_use(given):
        params, tokens, attention_mask, positions = on_automatic(given)
        return Decoder.from_params(params, config, dtype=dtype, remat=remat)(tokens, attention_mask, positions)


def init_params(config: ModelConfig, *, seed: int = 0) -> Params:
    """Freshly initialised parameters in `config.dtype`, the same for the same seed whatever the device.

    Raises:
        UsageError: the seed is not from 0 to 2**32 - 1, or the dtype is float64 and JAX is not set to compute in it.

    Example:
        >>> import tprog
        >>> config = tprog.ModelConfig(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2,
        ...                            intermediate_size=48, vocab_size=64)
        >>> init_params(config, seed=0)["layers"]["mlp"]["up"].shape
        (2, 48, 32)
    """
    require_precision(config.dtype)
    if not 0 <= seed < 1 << 32:
        raise UsageError("seed", expected="a number from 0 to 4294967295", got=seed, remedy="Choose another seed.")
    key = jax.random.key(seed)
    draw = jax.jit(initial_value, static_argnums=(0, 2, 3))
    return nest({spec.path: draw(spec, key, config.initializer_range, config.dtype) for spec in param_specs(config)})


def abstract_params(config: ModelConfig) -> Params:
    """Shapes and dtypes of `init_params`, with no memory behind them."""
    dtype = jnp.dtype(config.dtype)
    return nest({spec.path: jax.ShapeDtypeStruct(spec.shape, dtype) for spec in param_specs(config)})
