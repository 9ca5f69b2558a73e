"""The decoder of every supported family, as a Flax module and as pure functions."""

from tritter_jax.model.by_layer import logits_by_layer
from tritter_jax.model.decoder import Decoder, Params, abstract_params, apply, init_params

__all__ = ["Decoder", "Params", "abstract_params", "apply", "init_params", "logits_by_layer"]
