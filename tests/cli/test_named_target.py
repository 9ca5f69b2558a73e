"""A named size after --to fits the source's head_dim, and says where it departs from the table."""

SMOLLM = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "intermediate_size": 1536, "vocab_size": 49152,
}  # fmt: skip


def test_plan_from_a_config_json_needs_no_checkpoint(tritter, config_file):
    done = tritter("plan", "--from", config_file(**SMOLLM), "--to", "3B", "--json")
    assert done.code == 0, done.err
    assert done.json["sizes"]["num_heads"] == [9, 40]
    assert done.json["guarantee"]["exact"] is True
    assert "3B here has 30 layers (not 26), 40 query heads (not 20), 8 kv heads (not 4)" in " ".join(done.err.split())


def test_exact_shape_refuses_another_head_dim(tritter, config_file):
    done = tritter("plan", "--from", config_file(**SMOLLM), "--to", "3B", "--exact-shape")
    assert "head_dim: expected 64, as in the source, got 128" in done.error


def test_exact_shape_beside_a_config_json_is_refused(tritter, config_file):
    source, target = config_file(**SMOLLM), config_file("large.json", **SMOLLM | {"hidden_size": 640})
    done = tritter("plan", "--from", source, "--to", target, "--exact-shape")
    assert "--exact-shape: expected a named size" in done.error


def test_expand_to_a_named_size_from_another_head_dim(tritter, small):
    done = tritter("expand", "--from", small, "--to", "test", "--json", "--exact-shape")
    assert "head_dim" in done.error
    done = tritter("expand", "--from", small, "--to", "test", "--json")
    assert done.code == 0, done.err
    assert done.json["measured_drift"]["max_relative"] < 1e-4
    assert "test here has" in done.err
