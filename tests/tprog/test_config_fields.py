"""Every field of config.json that transformers reads is honoured, refused, or cannot change the function.

The names are collected from the installed transformers: what its modules ask a config for, and what its config
classes declare. A release that reads a new one fails `test_every_field_that_transformers_reads_is_classified` until
the field has its row below.
"""

import ast
import dataclasses
import importlib
import inspect
import json
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import transformers
from tprog.config import ROPE_SCALINGS, ModelConfig
from tprog.config_json import config_from_json, config_to_json
from tprog.errors import ConfigError
from tprog.families import BY_MODEL_TYPE
from tprog.wavelengths import inverse_wavelengths

from tests.support import first_of, logits, params_of, relative_difference

FAMILIES = tuple(BY_MODEL_TYPE)
SHARED = (
    "masking_utils",
    "cache_utils",
    "modeling_rope_utils",
    "modeling_utils",
    "modeling_layers",
    "integrations.sdpa_attention",
    "integrations.heterogeneity.configuration_utils",
)
BASE = {
    "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 40, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "initializer_range": 0.2, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, BASE["vocab_size"], (2, 9), dtype=np.int32)
WINDOW = 4
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ANY = "every family"

# Field: the value that is tried, and by family where it differs.
HONOURED: dict[str, dict[str, object]] = {
    "hidden_size": {ANY: 48, "bitnet": 64},
    "intermediate_size": {ANY: 40},
    "num_hidden_layers": {ANY: 3},
    "num_attention_heads": {ANY: 2},
    "num_key_value_heads": {ANY: 1},
    "head_dim": {ANY: 12, "bitnet": 16},
    "vocab_size": {ANY: 56},
    "rms_norm_eps": {ANY: 0.3},
    "tie_word_embeddings": {ANY: True},
    "rope_theta": {ANY: 50.0},
    "rope_scaling": {ANY: {"rope_type": "linear", "factor": 4.0}},
    "rope_parameters": {ANY: {"rope_type": "linear", "factor": 3.0, "rope_theta": 77.0}},
    "attention_bias": {"llama": True, "qwen3": True, "bitnet": True},
    "mlp_bias": {"llama": True},
    "sliding_window": {"mistral": 3},
    # Read beside a scaling that lacks its own original length.
    "max_position_embeddings": {ANY: 48},
    "original_max_position_embeddings": {ANY: 16},
}
# Its width is that of its heads together.
WIDTH_OF_BITNET = {
    "hidden_size": {"head_dim": 16}, "head_dim": {"hidden_size": 64}, "num_attention_heads": {"head_dim": 16},
}  # fmt: skip
REFUSED: dict[str, dict[str, object]] = {
    "is_causal": {ANY: False},
    "per_layer_config": {ANY: {"0": {"intermediate_size": 16}}},
    "kv_sharing_modes": {ANY: ["full", "reuse"]},
    "transformers_weights": {ANY: "other.safetensors"},
    "hidden_act": {ANY: "gelu"},
    "quantization_config": {ANY: {"quant_method": "bitnet"}},
    "partial_rotary_factor": {ANY: 0.5},
    "layer_types": {
        ANY: ["full_attention", "sliding_attention"],
        "mistral": ["full_attention", "linear_attention"],
    },
    "sliding_window": dict.fromkeys(("llama", "bitnet"), WINDOW),
    "attention_chunk_size": {ANY: WINDOW},
    "use_sliding_window": dict.fromkeys(("qwen2", "qwen3"), True),
}
# Field: the value that is tried, and why it cannot matter.
IRRELEVANT: dict[str, tuple[object, str]] = {
    "attention_bias": (True, "this class has no such switch"),
    "mlp_bias": (True, "this class has no such switch"),
    "use_sliding_window": (True, "this class has no such switch"),
    "sliding_window": (WINDOW, "read under use_sliding_window alone, which is refused where it reaches a layer"),
    "max_window_layers": (0, "the same"),
    "attention_dropout": (0.5, "in training alone; no dropout is applied here"),
    "pad_token_id": (3, "no gradient for its row in training; a forward pass reads it like any other"),
    "initializer_range": (0.7, "fresh weights alone"),
    "init_std": (0.7, "fresh weights alone"),
    "initializer_factor": (0.7, "fresh weights alone"),
    "bos_token_id": (5, "generation"),
    "eos_token_id": (5, "generation"),
    "sep_token_id": (5, "a warning"),
    "use_cache": (False, "generation"),
    "output_hidden_states": (True, "what is returned beside the logits"),
    "return_dict": (True, "the form in which logits are returned"),
    "tie_last_hidden_states": (False, "what is returned beside the logits"),
    "chunk_size_feed_forward": (4, "read by no class here"),
    "is_encoder_decoder": (True, "read by no class here"),
    "pretraining_tp": (2, "no longer read"),
    "_attn_implementation": ("eager", "the same function in another order of sums"),
    "attn_implementation": ("eager", "the same function in another order of sums"),
    "_experts_implementation": ("eager", "experts"),
    "experts_implementation": ("eager", "experts"),
    "gradient_checkpointing": (True, "memory"),
    "distributed_config": (None, "how it is laid out over devices"),
    "base_model_tp_plan": ({}, "how it is laid out over devices"),
    "base_model_pp_plan": ({}, "how it is laid out over devices"),
    "fusion_config": (None, "which kernels compute it"),
    "dtype": ("float32", "that of the files is kept"),
    "torch_dtype": ("float32", "that of the files is kept"),
    "architectures": (["LlamaModel"], "a name"),
    "model_type": (None, "names the family"),
    "transformers_version": ("4.0.0", "a name"),
    "name_or_path": ("x", "a name"),
    "_name_or_path": ("x", "a name"),
    "id2label": ({"0": "a"}, "classification"),
    "label2id": ({"a": 0}, "classification"),
    "num_labels": (3, "classification"),
    "problem_type": ("regression", "classification"),
    "classifier_dropout": (0.5, "classification"),
    "hidden_dropout": (0.5, "classification"),
    "token_classification_bias": (False, "classification"),
    "output_attentions": (False, "what is returned beside the logits"),
    "number_of_conv_states": (2, "convolutional layers"),
    "chain_hidden_post_norm": (True, "multi-token prediction heads, which are no part of the model"),
    "logits_mup_width_multiplier": (2.0, "multi-token prediction heads"),
    "mtp_hidden_states_first": (True, "multi-token prediction heads"),
    "mtp_layer_types": (["full_attention"], "multi-token prediction heads"),
    "unpadded_vocab_size": (7, "multi-token prediction heads"),
}
# What is asked of a config and is no field of the file.
NO_FIELDS = {
    "_attn_implementation_internal", "_experts_implementation_internal", "_heterogeneity_spec", "is_heterogeneous",
    "sub_configs", "_commit_hash",
}  # fmt: skip


def by_family(rows: dict[str, dict[str, object]], family: str) -> dict[str, object]:
    return {
        name: tried.get(family, tried.get(ANY)) for name, tried in rows.items() if family in tried or ANY in tried
    }


def irrelevant(family: str) -> dict[str, object]:
    judged = by_family(HONOURED, family) | by_family(REFUSED, family)
    return {name: tried for name, (tried, _) in IRRELEVANT.items() if name not in judged}


def is_config(node: ast.expr) -> bool:
    names = {"config", "decoder_config", "layer_config", "effective_config"}
    return (isinstance(node, ast.Name) and node.id in names) or (
        isinstance(node, ast.Attribute) and node.attr == "config"
    )


def asked_of_a_config(source: str) -> set[str]:
    """`config.NAME`, `getattr(config, "NAME", ...)` and `hasattr(config, "NAME")` of a module."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_config(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            asked, name = node.args[:2]
            found |= {name.value} if is_config(asked) and isinstance(name, ast.Constant) else set()
    return found


def taken_from_the_file(method: object) -> set[str]:
    """`kwargs.pop("NAME")` and `getattr(self, "NAME")` of a method of the config class."""
    calls = [node for node in ast.walk(ast.parse(inspect.cleandoc("\n" + inspect.getsource(method))))
             if isinstance(node, ast.Call) and len(node.args) >= 1]  # fmt: skip
    found = set()
    for call in calls:
        if (
            isinstance(call.func, ast.Attribute)
            and call.func.attr in ("pop", "get")
            and ast.unparse(call.func.value) == "kwargs"
        ):
            found.add(getattr(call.args[0], "value", None))
        if ast.unparse(call.func) in ("getattr", "hasattr") and ast.unparse(call.args[0]) == "self":
            found.add(getattr(call.args[1], "value", None))
    return {name for name in found if isinstance(name, str)}


def read_by_transformers(family: str) -> set[str]:
    modules = [f"models.{family}.modeling_{family}", *SHARED]
    names = set()
    for module in modules:
        names |= asked_of_a_config(inspect.getsource(importlib.import_module(f"transformers.{module}")))
    kind = type(transformers.AutoConfig.for_model(family))
    names |= {field.name for field in dataclasses.fields(kind)}
    base = transformers.PreTrainedConfig
    for method in (base.__post_init__, base.convert_rope_params_to_dict, base.standardize_rope_params):
        names |= taken_from_the_file(method)
    own = {name for name in names if callable(inspect.getattr_static(base, name, None)) or name.startswith("__")}
    return names - own - {name for name in names if isinstance(inspect.getattr_static(base, name, None), classmethod)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_that_transformers_reads_is_classified(family):
    found = read_by_transformers(family)
    assert {"hidden_act", "sliding_window", "is_causal", "rope_scaling", "transformers_weights"} <= found
    judged = by_family(HONOURED, family) | by_family(REFUSED, family) | irrelevant(family)
    assert found - judged.keys() - NO_FIELDS == set()


def test_a_new_field_of_transformers_would_be_seen():
    source = "def forward(self):\n    if getattr(self.config, 'new_switch', 0): return config.new_scale"
    assert asked_of_a_config(source) == {"new_switch", "new_scale"}


@pytest.mark.parametrize("kind", ROPE_SCALINGS)
def test_every_parameter_of_a_rope_scaling_that_transformers_reads_is_known(kind):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    tree = ast.parse(inspect.getsource(ROPE_INIT_FUNCTIONS[kind]))
    read = {node.slice.value for node in ast.walk(tree)
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "rope_parameters_dict"}  # fmt: skip
    read |= {node.args[0].value for node in ast.walk(tree) if isinstance(node, ast.Call)
             and isinstance(node.func, ast.Attribute) and node.func.attr == "get"}  # fmt: skip
    assert read == {*ROPE_SCALINGS[kind], "rope_theta", "partial_rotary_factor"}


def base_of(family: str) -> dict[str, object]:
    window = {"sliding_window": 5} if family == "mistral" else {}
    return {**BASE, **window, "model_type": family, "architectures": [BY_MODEL_TYPE[family].architecture]}


def loaded_config(data: dict[str, object]):
    with TemporaryDirectory() as directory:
        Path(directory, "config.json").write_text(json.dumps(data))
        return transformers.AutoConfig.from_pretrained(directory)


def model_of(data: dict[str, object]) -> torch.nn.Module:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(loaded_config(data)).eval()


@torch.no_grad()
def outputs(model: torch.nn.Module) -> np.ndarray:
    """Logits of one pass, and of one token at a time through the cache."""
    tokens = torch.from_numpy(TOKENS).long()
    whole = model(tokens).logits
    steps, cache = [], None
    for place in range(tokens.shape[1]):
        out = model(tokens[:, place : place + 1], cache=cache, use_cache=True)
        steps.append(out.logits)
        cache = out.cache
    return np.stack([whole.numpy(), torch.cat(steps, 1).numpy()])


@lru_cache
def base_state(family: str) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    model = model_of(base_of(family))
    return model.state_dict(), outputs(model)


def changed(family: str, field: str, value: object) -> np.ndarray | None:
    """Outputs of transformers with the same weights and another config.json; None where it does not load or run."""
    state, _ = base_state(family)
    try:
        model = model_of(base_of(family) | {field: value})
        model.load_state_dict(state)
        return outputs(model)
    except Exception:  # whatever it raises, it computes nothing
        return None


@pytest.mark.parametrize("family", first_of(FAMILIES))
def test_fields_that_cannot_matter_change_nothing(family):
    _, expected = base_state(family)
    plain = config_from_json(base_of(family))
    for field, value in irrelevant(family).items():
        if field == "model_type":
            continue
        got = changed(family, field, value)
        assert got is not None, field
        assert relative_difference(got, expected) < 1e-5, field
        ours = config_from_json(base_of(family) | {field: value})
        kept = {"extra": {}, "initializer_range": ours.initializer_range}
        assert dataclasses.replace(ours, **kept) == dataclasses.replace(plain, **kept), field


@pytest.mark.parametrize("family", FAMILIES)
def test_fields_that_change_the_function_otherwise_are_refused(family):
    _, plain = base_state(family)
    for field, value in by_family(REFUSED, family).items():
        data = base_of(family) | {field: value}
        if field == "use_sliding_window":
            data |= {"sliding_window": WINDOW, "max_window_layers": 1}
        with pytest.raises(ConfigError) as caught:
            config_from_json(data)
        assert field in str(caught.value) or field == "use_sliding_window", field
        assert len(str(caught.value).splitlines()) == 1, field
        if field not in (
            "quantization_config",
            "transformers_weights",
            "partial_rotary_factor",
            "use_sliding_window",
        ):
            got = changed(family, field, value)
            if family in ("qwen2", "qwen3") and field == "attention_chunk_size":
                assert relative_difference(got, plain) < 1e-5  # could be taken: its layer_types rule it out
            elif family != "mistral" or field != "attention_chunk_size":
                assert got is None or relative_difference(got, plain) > 1e-3, field


@pytest.mark.parametrize("family", FAMILIES)
def test_fields_that_are_honoured_change_transformers_and_our_configuration(family):
    """That both change alike is held by `test_logits_with_every_honoured_field_equal_those_of_transformers`."""
    _, plain = base_state(family)
    scaled = {"rope_scaling": LLAMA3}
    for field, value in by_family(HONOURED, family).items():
        scaling = scaled if field in ("max_position_embeddings", "original_max_position_embeddings") else {}
        beside = scaling
        if family == "bitnet" and field in WIDTH_OF_BITNET:
            beside = WIDTH_OF_BITNET[field]
        base = base_of(family) | beside
        same_weights = ("rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "sliding_window")
        if field in same_weights:
            assert relative_difference(changed(family, field, value), plain) > 1e-4, field
        ours, before = config_from_json(base | {field: value}), config_from_json(base_of(family) | scaling)
        if scaling:
            assert ours.rope_scaling != before.rope_scaling, field
        assert dataclasses.replace(ours, extra={}) != dataclasses.replace(before, extra={}), field


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_with_every_honoured_field_equal_those_of_transformers(family):
    fields = by_family(HONOURED, family)
    fields |= {"rope_scaling": LLAMA3, "num_attention_heads": 4}
    del fields["rope_parameters"]
    data = base_of(family) | fields
    model = model_of(data)
    config = config_from_json(data)
    with torch.no_grad():
        theirs = model(torch.from_numpy(TOKENS).long()).logits.numpy()
    assert relative_difference(logits(params_of(model, config), TOKENS, config), theirs) < 1e-4


def assert_same_meaning(ours: ModelConfig, data: dict[str, object], field: str) -> None:
    model = model_of(data)
    theirs, attention = model.config, model.model.layers[0].self_attn
    expected = {
        "hidden_size": theirs.hidden_size, "num_layers": theirs.num_hidden_layers,
        "num_heads": theirs.num_attention_heads, "num_kv_heads": theirs.num_key_value_heads,
        "head_dim": attention.head_dim, "intermediate_size": theirs.intermediate_size,
        "vocab_size": theirs.vocab_size, "max_position_embeddings": theirs.max_position_embeddings,
        "norm_eps": theirs.rms_norm_eps, "tie_embeddings": theirs.tie_word_embeddings,
        "initializer_range": theirs.initializer_range, "rope_theta": theirs.rope_parameters["rope_theta"],
    }  # fmt: skip
    assert {name: getattr(ours, name) for name in expected} == expected, field
    window = getattr(attention, "sliding_window", None) if ours.family.startswith("qwen") else None
    window = theirs.sliding_window if ours.family == "mistral" else window
    assert ours.sliding_window == window, field
    np.testing.assert_allclose(inverse_wavelengths(ours), model.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)


def fields_of(family: str) -> list[str]:
    known = set(base_of(family)) | set(by_family(HONOURED, family)) | set(by_family(REFUSED, family))
    return sorted((known | set(irrelevant(family))) - {"model_type"})


REQUIRED = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_left_out_has_the_default_of_the_class(family):
    plain = base_of(family) | {"hidden_size": 320, "num_key_value_heads": 4}
    # Every default number of key and value heads divides it.
    plain |= {"num_attention_heads": 20, "head_dim": 16} if family == "bitnet" else {"num_attention_heads": 160}
    for field in set(plain) - {"model_type"}:
        data = {name: value for name, value in plain.items() if name != field}
        if field in REQUIRED:
            with pytest.raises(ConfigError, match=field):
                config_from_json(data)
        else:
            assert_same_meaning(config_from_json(data), data, field)


@pytest.mark.parametrize("family", first_of(FAMILIES))
def test_null_is_what_transformers_makes_of_it_or_a_field_left_out(family):
    for field in fields_of(family):
        data = base_of(family) | {field: None}
        left_out = {name: value for name, value in data.items() if name != field}
        if field in REQUIRED | {"is_causal"}:
            with pytest.raises(ConfigError, match=field):
                config_from_json(data)
            continue
        try:
            loaded_config(data)
            model_of(data)
        except Exception:  # transformers 5 does not take it, transformers 4 did
            ours = config_from_json(data)
            if field == "num_key_value_heads":
                assert ours.num_kv_heads == ours.num_heads
                continue
            plain = config_from_json(left_out)
            assert dataclasses.replace(ours, extra={}) == dataclasses.replace(plain, extra={}), field
        else:
            assert_same_meaning(config_from_json(data), data, field)


@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
@pytest.mark.parametrize(
    ("spelled", "meant"),
    [("auto", "float32"), ("torch.bfloat16", "bfloat16"), ("float16", "float16"), (None, "float32")],
)
def test_dtypes_are_read_as_they_are_spelled(field, spelled, meant):
    assert config_from_json(base_of("llama") | {field: spelled}).dtype == meant


LINEAR = {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_scaling": LINEAR | {"attention_factor": 2.0, "finetuned": True, "mrope_section": [1, 2]}},
        {"rope_scaling": {"type": "linear", "factor": 4}},
        {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 4}},
        {"rope_scaling": {"factor": 4.0}},
        {"rope_scaling": {}},
        {"rope_scaling": LLAMA3},
        {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16, "beta_fast": 32}},
        {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16}, "original_max_position_embeddings": 32},
        {"rope_parameters": LINEAR | {"rope_theta": 55.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 55.0}},
        {"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default", "rope_theta": 55.0}},
        {"rope_scaling": None, "rope_parameters": LINEAR},
        {"rope_scaling": LINEAR, "partial_rotary_factor": 1.0},
    ],
    ids=str,
)
def test_rope_in_every_spelling_is_what_transformers_makes_of_it(fields):
    data = base_of("llama") | fields
    ours = config_from_json(data)
    assert_same_meaning(ours, data, str(fields))
    written = config_to_json(ours)
    assert_same_meaning(config_from_json(written), written, "written again")


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        ({"rope_type": "yarn", "factor": 4.0}, "'yarn'"),
        ({"rope_type": "linear", "factor": None}, "factor"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": ["linear"]}, "rope_type"),
        ({"full_attention": LINEAR}, "one set of parameters for all layers"),
        (LINEAR | {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
    ids=str,
)
def test_a_rope_that_is_not_computed_here_is_refused(rope, said):
    with pytest.raises(ConfigError, match=said):
        config_from_json(base_of("llama") | {"rope_scaling": rope})


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}),
        ("qwen3", {"use_sliding_window": True, "layer_types": ["full_attention"] * 2, "sliding_window": WINDOW}),
        ("llama", {"sliding_window": 64}),
        ("llama", {"sliding_window": WINDOW, "layer_types": ["full_attention"] * 2}),
        ("mistral", {"layer_types": ["sliding_attention"] * 2, "sliding_window": 5}),
    ],
    ids=str,
)
def test_a_window_that_reaches_no_layer_is_not_written_again(family, fields):
    """More layers, or a cache, would find it there."""
    data = base_of(family) | fields
    written = config_to_json(dataclasses.replace(config_from_json(data), num_layers=3))
    model = model_of(written)
    got, alone = outputs(model)
    assert relative_difference(got, alone) < 1e-5
    assert_same_meaning(config_from_json(written), written, str(fields))


def test_a_ternary_model_that_keeps_some_layers_unrounded_is_refused():
    block = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    for kept, taken in ((None, True), (["lm_head"], True), ([], False), (["lm_head", "o_proj"], False)):
        data = base_of("bitnet") | {"quantization_config": block | {"modules_to_not_convert": kept}}
        if taken:
            assert config_from_json(data).ternary
        else:
            with pytest.raises(ConfigError, match="quantization_config"):
                config_from_json(data)
