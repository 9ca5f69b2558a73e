"""Progressive checkpoints: what a `.tprog` directory is, readable without jax and without torch."""

from tprog.config import ModelConfig, RopeScaling
from tprog.config_json import config_from_json, config_to_json, load_config
from tprog.errors import (
    ConfigError,
    FormatError,
    GrowthError,
    ParameterError,
    TritterError,
    UsageError,
    VerificationError,
)
from tprog.families import FAMILIES, Family
from tprog.hf_names import hf_tensors
from tprog.params import ParamSpec, param_specs
from tprog.sizes import SIZES, count_parameters, named_size, size_label
from tprog.tree import check_tree

__all__ = [
    "FAMILIES",
    "SIZES",
    "ConfigError",
    "Family",
    "FormatError",
    "GrowthError",
    "ModelConfig",
    "ParamSpec",
    "ParameterError",
    "RopeScaling",
    "TritterError",
    "UsageError",
    "VerificationError",
    "check_tree",
    "config_from_json",
    "config_to_json",
    "count_parameters",
    "hf_tensors",
    "load_config",
    "named_size",
    "param_specs",
    "size_label",
]
