"""The decoder of every supported family, as a Flax module and as pure functions."""

from tritter_jax.model.by_layer import logits_by_layer
from tritter_jax.model.decoder import Decoder, Params, abstract_params, apply, init_params
from tritter_jax.model.generate import generate
from tritter_jax.model.loss import token_losses, whole_logits
from tritter_jax.model.remat import REMAT, Remat
from tritter_jax.model.stages import Stages, stages
from tritter_jax.model.token_ids import check_token_ids

__all__ = [
    "REMAT",
    "Decoder",
    "Params",
    "Remat",
    "Stages",
    "abstract_params",
    "apply",
    "check_token_ids",
    "generate",
    "init_params",
    "logits_by_layer",
    "stages",
    "token_losses",
    "whole_logits",
]
