"""The decoder as pure functions and as a Flax module: trees, masks, memory, compilation."""

import itertools
import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tprog import FormatError, ModelConfig, ParameterError, param_specs
from tprog.reader import open_checkpoint
from tprog.source import LazyTensors, named_source
from tprog.tensorfile import TensorFile
from tprog.tree import flatten, nest
from tprog.writer import write_checkpoint

from tests.model.variants import FULL
from tests.support import (
    gradients,
    logits,
    odd_config,
    random_params,
    random_tokens,
    relative_difference,
    same_values,
)
from tritter_jax.model import Decoder, abstract_params, apply, logits_by_layer

LLAMA = odd_config("llama")
every_family = pytest.mark.parametrize("config", FULL.values(), ids=FULL)


def as_dict(module: nnx.Module) -> dict:
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


@every_family
def test_a_module_made_from_parameters_holds_them_and_computes_the_same(config):
    params, tokens = random_params(config), jnp.asarray(random_tokens(config))
    module = Decoder.from_params(params, config)
    assert same_values(as_dict(module), params)
    merged = nnx.merge(*nnx.split(module))
    assert same_values(as_dict(merged), params)
    expected = logits(params, tokens, config)
    assert relative_difference(merged(tokens), expected) < 1e-6
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))


def test_a_new_module_has_the_tree_of_the_table():
    module = Decoder(LLAMA, rngs=nnx.Rngs(0))
    shapes = {".".join(path): leaf.shape for path, leaf in flatten(as_dict(module)).items()}
    assert shapes == {spec.name: spec.shape for spec in param_specs(LLAMA)}
    assert module(jnp.zeros((1, 4), jnp.int32)).shape == (1, 4, LLAMA.vocab_size)


def test_a_change_of_the_module_is_a_change_of_its_own_tree_only():
    params = random_params(LLAMA)
    module = Decoder.from_params(params, LLAMA)
    module.norm[...] = module.norm[...] * 2
    assert not np.array_equal(as_dict(module)["norm"], params["norm"])
    assert same_values(as_dict(Decoder.from_params(params, LLAMA)), params)


def test_parameters_of_another_depth_are_refused():
    """Flax graphs of models of different depth compare equal: unchecked, a stale one would run silently."""
    deeper = random_params(replace(LLAMA, num_layers=5))
    with pytest.raises(ParameterError, match=r"query has shape \[5, 6, 14, 60\], expected \[3, 6, 14, 60\]"):
        apply(deeper, jnp.zeros((1, 4), jnp.int32), LLAMA)
    with pytest.raises(ParameterError):
        jax.jit(lambda params: apply(params, jnp.zeros((1, 4), jnp.int32), LLAMA))(deeper)
    with pytest.raises(ParameterError):
        Decoder.from_params(deeper, LLAMA)


def test_a_missing_an_unknown_and_a_misshapen_parameter_are_named_at_once():
    flat = flatten(random_params(LLAMA))
    del flat["norm",]
    flat["layers", "mlp", "extra"] = jnp.zeros(3)
    flat["embed",] = flat["embed",].T
    with pytest.raises(ParameterError) as refusal:
        apply(nest(flat), jnp.zeros((1, 4), jnp.int32), LLAMA)
    message = str(refusal.value)
    assert "norm is missing; expected shape [60]" in message
    assert "layers.mlp.extra is unknown" in message
    assert "embed has shape [60, 131], expected [131, 60]" in message


@pytest.mark.parametrize("differentiated", [False, True], ids=["forward", "gradient"])
def test_the_compiled_program_does_not_grow_with_depth(differentiated):
    def program(layers: int) -> str:
        config = odd_config("llama", num_layers=layers)

        def run(params: dict, tokens: jax.Array) -> jax.Array:
            return apply(params, tokens, config).sum()

        function = jax.jit(jax.grad(run) if differentiated else run)
        return function.lower(abstract_params(config), jax.ShapeDtypeStruct((2, 16), jnp.int32)).compile().as_text()

    assert len(program(12)) < 1.2 * len(program(3))


def test_bfloat16_gradients_are_bfloat16_and_near_the_float32_ones():
    config = replace(LLAMA, dtype="bfloat16")
    params, tokens = random_params(config), random_tokens(config)
    narrow = flatten(gradients(params, tokens, config))
    wide = flatten(gradients(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), tokens, LLAMA))
    for path, leaf in narrow.items():
        assert leaf.dtype == jnp.bfloat16
        assert relative_difference(leaf, wide[path]) < 0.1, ".".join(path)


@every_family
def test_a_later_token_changes_no_earlier_logit(config):
    params, tokens = random_params(config), random_tokens(config)
    changed = tokens.copy()
    changed[:, 9] = (changed[:, 9] + 1) % config.vocab_size
    before, after = (np.asarray(logits(params, each, config)) for each in (tokens, changed))
    np.testing.assert_array_equal(after[:, :9], before[:, :9])
    assert (after[:, 9] != before[:, 9]).any()


@pytest.mark.parametrize("pads", [slice(None, 4), slice(-4, None)], ids=["left", "right"])
def test_what_stands_in_the_padding_does_not_matter(pads):
    params, tokens = random_params(LLAMA), random_tokens(LLAMA)
    mask = np.ones(tokens.shape, np.int32)
    mask[:, pads] = 0
    other = np.where(mask, tokens, (tokens + 7) % LLAMA.vocab_size).astype(np.int32)
    one, two = (np.asarray(logits(params, each, LLAMA, mask=mask)) for each in (tokens, other))
    real = mask.astype(bool)
    np.testing.assert_array_equal(one[real], two[real])
    assert np.isfinite(one).all()
    unmasked = np.asarray(logits(params, other, LLAMA))
    assert (relative_difference(unmasked[real], one[real]) > 1e-3) == (pads.start is None)


def test_a_padded_row_gives_the_logits_of_its_real_tokens_alone():
    params, tokens = random_params(LLAMA), random_tokens(LLAMA)
    mask = np.ones(tokens.shape, np.int32)
    mask[:, :5] = 0
    padded = logits(params, tokens, LLAMA, mask=mask)[:, 5:]
    assert relative_difference(padded, logits(params, tokens[:, 5:], LLAMA)) < 1e-5


def test_a_window_of_five_hides_what_is_five_tokens_back():
    config = odd_config("mistral", sliding_window=5, num_layers=1)
    params, tokens = random_params(config), random_tokens(config)
    changed = tokens.copy()
    changed[:, 3] = (changed[:, 3] + 1) % config.vocab_size
    before, after = (np.asarray(logits(params, each, config)) for each in (tokens, changed))
    differs = (before != after).any(axis=(0, 2))
    assert np.flatnonzero(differs).tolist() == [3, 4, 5, 6, 7]


def test_only_distances_between_positions_matter():
    params, tokens = random_params(LLAMA), jnp.asarray(random_tokens(LLAMA))
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    run = jax.jit(lambda positions: apply(params, tokens, LLAMA, positions=positions))
    expected = logits(params, tokens, LLAMA)
    assert relative_difference(run(positions), expected) < 1e-6
    assert relative_difference(run(positions + 20), expected) < 1e-4
    assert relative_difference(run(positions * 2), expected) > 1e-2


def hf_tensors_of(params: dict, config: ModelConfig) -> dict[str, np.ndarray]:
    flat, tensors = flatten(params), {}
    for spec in param_specs(config):
        leaf = np.asarray(flat[spec.path])
        for layer in range(config.num_layers if spec.stacked else 1):
            tensors[spec.hf_name.format(layer=layer)] = spec.to_hf(leaf[layer] if spec.stacked else leaf)
    return tensors


@every_family
def test_layer_by_layer_gives_the_same_logits(config):
    params, tokens = random_params(config), random_tokens(config)
    streamed = logits_by_layer(named_source(hf_tensors_of(params, config)), tokens, config)
    assert relative_difference(streamed, logits(params, tokens, config)) < 1e-5


def test_layer_by_layer_from_a_file_is_the_same_with_a_dtype_of_its_own_in_each_layer(tmp_path):
    """Layers are read ahead into memory that is used again, which must hold the widest."""
    tensors = hf_tensors_of(random_params(LLAMA), LLAMA)
    mixed = {name: array.astype("float16") if ".0." in name else array for name, array in tensors.items()}
    path = write_checkpoint(tmp_path / "mixed.tprog", LLAMA, named_source(mixed))
    tokens = random_tokens(LLAMA)
    streamed = logits_by_layer(open_checkpoint(path), tokens, LLAMA)
    np.testing.assert_array_equal(streamed, logits_by_layer(named_source(mixed), tokens, LLAMA))
    assert not np.array_equal(streamed, logits_by_layer(named_source(tensors), tokens, LLAMA))


def test_layer_by_layer_an_unreadable_tensor_is_told_and_nothing_is_read_on(tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "cut.tprog", LLAMA, named_source(hf_tensors_of(random_params(LLAMA), LLAMA)))
    read, count = TensorFile.read, itertools.count()

    def cut(self, buffer: np.ndarray, view: np.ndarray) -> None:
        if next(count) == 12:
            raise FormatError(path, expected="more", got="less", remedy="Fetch it again.")
        read(self, buffer, view)

    monkeypatch.setattr(TensorFile, "read", cut)
    before = threading.active_count()
    with pytest.raises(FormatError, match="expected more"):
        logits_by_layer(open_checkpoint(path), random_tokens(LLAMA), LLAMA)
    assert threading.active_count() <= before
    assert next(count) < 20


def test_layer_by_layer_multiplies_in_full_precision_on_every_device():
    """A TPU's bfloat16 products, or a GPU's TF32 ones, would be taken for a change of the function."""
    tensors, seen = hf_tensors_of(random_params(LLAMA), LLAMA), set()

    def read(name: str) -> np.ndarray:
        seen.add(jax.config.jax_default_matmul_precision)
        return tensors[name]

    logits_by_layer(LazyTensors(named_source(tensors).specs, read), random_tokens(LLAMA), LLAMA)
    assert seen == {"highest"}
