"""Flax modules whose parameters come from the parameter table, so that no name or shape stands here twice."""

import zlib
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key
from tprog import ModelConfig, ParamSpec, param_specs
from tprog.params import Path

from tritter_jax.dtypes import wide_dtype


def initial_value(spec: ParamSpec, key: Key[Array, ""], scale: float, dtype: jnp.dtype | str) -> Float[Array, "..."]:
    """Draw one parameter, layers included, as its row says; the draw depends on the key and the row's name only."""
    if spec.initializer == "normal":
        own_key = jax.random.fold_in(key, zlib.crc32(spec.name.encode()))
        draw = jax.random.normal(own_key, spec.shape, wide_dtype(dtype))
        return (draw * jnp.asarray(scale, draw.dtype)).astype(dtype)
    return jnp.full(spec.shape, {"ones": 1, "zeros": 0}[spec.initializer], dtype)


class TableModule(nnx.Module):
    """A module that holds the parameters whose path in the table lies directly under `path`.

    Args:
        config: the model's configuration.
        path: where in the parameter tree this module stands.
        key: key of the initialisation.
    """

    def __init__(self, config: ModelConfig, path: Path, key: Key[Array, ""]) -> None:
        self.config = config
        for spec in param_specs(config):
            if spec.path[:-1] == path:
                value = initial_value(spec, key, config.initializer_range, config.dtype)
                setattr(self, spec.path[-1], nnx.Param(value))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> nnx.Param: ...

    def optional(self, name: str) -> Float[Array, "..."] | None:
        """The value of a parameter that only some configurations have."""
        param = getattr(self, name, None)
        return None if param is None else param[...]
