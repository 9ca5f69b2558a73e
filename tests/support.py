"""Models of odd shapes for every family, in transformers and here."""

import jax.numpy as jnp
import numpy as np
import torch
import transformers

from tprog import ModelConfig, config_to_json, hf_tensors, param_specs
from tprog.params import nest


def odd_config(family: str, **changes: object) -> ModelConfig:
    """A small model whose sizes are no powers of two and whose head_dim is not hidden / heads (where it may be)."""
    values: dict[str, object] = {
        "family": family,
        "hidden_size": 60,
        "num_layers": 3,
        "num_heads": 6,
        "num_kv_heads": 2,
        "head_dim": 10 if family in ("bitnet", "qwen2") else 14,
        "intermediate_size": 88,
        "vocab_size": 131,
        "max_position_embeddings": 64,
        "initializer_range": 0.08,
    }
    return ModelConfig(**(values | changes))


def torch_model(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32):
    """The transformers class of a configuration, every parameter random (norm gains and biases too)."""
    data = config_to_json(config)
    data.pop("quantization_config", None)
    data["attn_implementation"] = "eager"
    hf_config = transformers.AutoConfig.for_model(**{**data, "torch_dtype": None})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(hf_config, attn_implementation="eager").to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.mul_(config.initializer_range / parameter.std())
    return model


def params_of(model: torch.nn.Module, config: ModelConfig) -> dict:
    """Our tree of a transformers model's parameters, bit for bit."""
    state = {
        name: value.detach().view(torch.uint16).numpy().view(jnp.bfloat16)
        if value.dtype == torch.bfloat16
        else value.detach().numpy()
        for name, value in model.state_dict().items()
    }
    layers: dict[tuple[str, ...], list[np.ndarray]] = {spec.path: [] for spec in param_specs(config)}
    for tensor in hf_tensors(config):
        layers[tensor.spec.path].append(tensor.spec.from_hf(state[tensor.name]))
    return nest(
        {
            spec.path: jnp.asarray(np.stack(layers[spec.path]) if spec.stacked else layers[spec.path][0])
            for spec in param_specs(config)
        }
    )


def random_tokens(config: ModelConfig, shape: tuple[int, int] = (2, 17), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab_size, shape, dtype=np.int32)


def relative_difference(a: object, b: object) -> float:
    """Largest absolute difference over the largest absolute value, in float64."""
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(left - right).max() / np.abs(right).max())
