"""Small models of every family, here and in transformers, and what is compiled once for all tests."""

from collections.abc import Iterable
from functools import lru_cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from tprog import ModelConfig, config_to_json, hf_tensors, param_specs
from tprog.tree import flatten, nest

from tritter_jax.model import apply
from tritter_jax.model.remat import DEFAULT


def every_value(**axes: Iterable[object]) -> pytest.MarkDecorator:
    """Parametrise a test over all combinations; by default it runs a few that have each value, the rest is slow."""
    values = [list(axis) for axis in axes.values()]
    few = {tuple(axis[i % len(axis)] for axis in values) for i in range(max(map(len, values)))}
    return pytest.mark.parametrize(
        tuple(axes),
        [
            pytest.param(*these, id="-".join(map(str, these)), marks=() if these in few else pytest.mark.slow)
            for these in product(*values)
        ],
    )


def first_of(values: Iterable[object]) -> list[object]:
    """Parameters of a test, of which it takes the first by default; the rest is slow."""
    first, *rest = values
    return [first, *(pytest.param(value, marks=pytest.mark.slow) for value in rest)]


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


def random_params(config: ModelConfig, seed: int = 0) -> dict:
    """Parameters as training might leave them: no gain is 1, no bias is 0; the same numbers in every dtype."""
    rng = np.random.default_rng(seed)

    def draw(spec) -> jax.Array:
        noise = rng.standard_normal(spec.shape)
        value = {"normal": 0.0, "zeros": 0.0, "ones": 1.0}[spec.initializer]
        spread = config.initializer_range if spec.initializer == "normal" else 0.2
        return jnp.asarray(value + spread * noise, config.dtype)

    return nest({spec.path: draw(spec) for spec in param_specs(config)})


def random_tokens(config: ModelConfig, shape: tuple[int, int] = (2, 17), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab_size, shape, dtype=np.int32)


@lru_cache(maxsize=256)
def _forward(config: ModelConfig, dtype: str | None):
    return jax.jit(lambda params, tokens, mask: apply(params, tokens, config, attention_mask=mask, dtype=dtype))


def logits(params: dict, tokens: np.ndarray, config: ModelConfig, *, mask=None, dtype: str | None = None):
    """Logits, compiled once a configuration."""
    return _forward(config, dtype)(params, jnp.asarray(tokens), None if mask is None else jnp.asarray(mask))


def loss(params: dict, tokens: jax.Array, config: ModelConfig, *, remat: str = DEFAULT) -> jax.Array:
    """Mean negative log-likelihood of the next token."""
    log_p = jax.nn.log_softmax(apply(params, tokens[:, :-1], config, remat=remat), axis=-1)
    return -jnp.mean(jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1))


@lru_cache(maxsize=256)
def _gradient(config: ModelConfig, remat: str):
    return jax.jit(jax.grad(lambda params, tokens: loss(params, tokens, config, remat=remat)))


def gradients(params: dict, tokens: np.ndarray, config: ModelConfig, *, remat: str = DEFAULT) -> dict:
    """Gradients of `loss`, compiled once a configuration."""
    return _gradient(config, remat)(params, jnp.asarray(tokens))


def torch_model(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32):
    """The transformers class of a configuration, every parameter random (norm gains and biases too)."""
    data = config_to_json(config)
    data.pop("quantization_config", None)
    data["attn_implementation"] = "eager"
    hf_config = transformers.AutoConfig.for_model(**{**data, "torch_dtype": None})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(hf_config, attn_implementation="eager").eval()
    wavelengths = model.model.rotary_emb.inv_freq
    model = model.to(dtype)
    model.model.rotary_emb.inv_freq = wavelengths  # stays float32, as from_pretrained leaves it
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.mul_(config.initializer_range / parameter.std())
    return model


@torch.no_grad()
def torch_logits(model: torch.nn.Module, tokens: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Logits of a transformers model, as float32 (float64 for float64)."""
    keep = None if mask is None else torch.from_numpy(mask)
    out = model(torch.from_numpy(tokens).long(), attention_mask=keep).logits
    return (out if out.dtype == torch.float64 else out.float()).numpy()


def torch_gradients(model: torch.nn.Module, tokens: np.ndarray, config: ModelConfig) -> dict:
    """Gradients of the mean negative log-likelihood of the next token, as our tree."""
    ids = torch.from_numpy(tokens).long()
    out = model(ids[:, :-1]).logits
    torch.nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), ids[:, 1:].reshape(-1)).backward()
    return _our_tree({name: parameter.grad for name, parameter in model.named_parameters()}, config)


def params_of(model: torch.nn.Module, config: ModelConfig) -> dict:
    """Our tree of a transformers model's parameters, bit for bit."""
    return _our_tree(model.state_dict(), config)


def _our_tree(tensors: dict[str, torch.Tensor], config: ModelConfig) -> dict:
    state = {
        name: value.detach().view(torch.uint16).numpy().view(jnp.bfloat16)
        if value.dtype == torch.bfloat16
        else value.detach().numpy().copy()
        for name, value in tensors.items()
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


def relative_difference(a: object, b: object) -> float:
    """Largest absolute difference over the largest absolute value of `b`, in float64."""
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(left - right).max() / np.abs(right).max())


def same_values(left: dict, right: dict) -> bool:
    """Whether two trees have the same leaves, element for element."""
    one, other = flatten(left), flatten(right)
    return one.keys() == other.keys() and all(np.array_equal(leaf, other[path]) for path, leaf in one.items())
