"""Checkpoint directories: what is written is opened with every bit, and what does not fit is told all at once."""

import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tprog.numpy
from tprog.config_json import config_from_json, config_to_json
from tprog.errors import FormatError, ParameterError, TritterError
from tprog.hf_names import hf_tensors
from tprog.reader import open_checkpoint
from tprog.schema import Progressive
from tprog.shards import plan_shards
from tprog.tensorfile import TensorFile, write_tensors
from tprog.tensorheader import TensorSpec
from tprog.verify import verify
from tprog.writer import write_checkpoint

from tests.tprog.files import assert_same_bits, entry, random_arrays, raw_file, small_config

CONFIG = small_config()


@pytest.fixture
def saved(tmp_path):
    return write_checkpoint(tmp_path / "a-1K-0.tprog", CONFIG, random_arrays(CONFIG), shard_size=1000)


def rewrite_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite_shard(path, change):
    """Write one shard anew, its arrays changed, its metadata kept."""
    file = TensorFile.open(path)
    arrays = {name: np.array(file.tensor(name)) for name in file.specs}
    metadata = dict(file.header.metadata)
    change(arrays)
    path.unlink()
    write_tensors(path, arrays, metadata)


def refusal(path):
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    return caught.value


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("shard_size", [10**9, 1000])
@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(tmp_path, dtype, shard_size, tied):
    config = small_config(dtype=dtype, tie_embeddings=tied)
    arrays = random_arrays(config)
    path = write_checkpoint(tmp_path / "a.tprog", config, arrays, shard_size=shard_size)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == config
    assert checkpoint.names == tuple(tensor.name for tensor in hf_tensors(config))
    assert_same_bits(tprog.numpy.load(checkpoint), arrays)
    assert len(list(path.glob("weights*.safetensors"))) == (
        1 if shard_size == 10**9 else len(checkpoint.weights.files)
    )


def test_mixed_dtypes_are_kept(tmp_path):
    arrays = random_arrays(small_config(dtype="bfloat16"))
    arrays["model.norm.weight"] = arrays["model.norm.weight"].astype(np.float32)
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "a.tprog", CONFIG, arrays))
    assert checkpoint.config.dtype == "bfloat16"
    assert_same_bits(tprog.numpy.load(checkpoint), arrays)


def test_the_directory_holds_what_the_format_says(saved):
    names = {path.name for path in saved.iterdir()}
    shards = {name for name in names if name.startswith("weights-")}
    assert names - shards == {"config.json", "progressive.json", "model.safetensors.index.json"}
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == shards
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in random_arrays(CONFIG).values())
    manifest = json.loads((saved / "progressive.json").read_text())["manifest"]
    assert set(manifest["files"]) == names - {"progressive.json"}
    assert {TensorFile.open(saved / name).header.metadata["save_id"] for name in shards} == {manifest["save_id"]}
    for name, record in manifest["files"].items():
        assert record["bytes"] == (saved / name).stat().st_size


def test_one_file_has_an_index_too(tmp_path):
    path = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    index = json.loads((path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {"weights.safetensors"}


def test_pairs_in_table_order_are_streamed(tmp_path):
    arrays = random_arrays(CONFIG)
    alive = []

    def pairs():
        for name, array in arrays.items():
            alive.append(name)
            yield name, array

    path = write_checkpoint(tmp_path / "a.tprog", CONFIG, pairs())
    assert alive == list(arrays)
    assert_same_bits(tprog.numpy.load(path), arrays)


def test_pairs_out_of_order_leave_nothing(tmp_path):
    pairs = list(random_arrays(CONFIG).items())
    pairs[2], pairs[3] = pairs[3], pairs[2]
    with pytest.raises(ParameterError, match="in the order of"):
        write_checkpoint(tmp_path / "a.tprog", CONFIG, iter(pairs))
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_the_table_is_listed_before_anything_is_written(tmp_path):
    arrays = random_arrays(CONFIG)
    del arrays["model.norm.weight"]
    arrays["model.layers.0.mlp.up_proj.weight"] = np.zeros((3, 3), np.float32)
    arrays["model.layers.9.mlp.up_proj.weight"] = np.zeros((3, 3), np.float32)
    arrays["lm_head.weight"] = arrays["lm_head.weight"].astype(np.int32)
    with pytest.raises(ParameterError) as caught:
        write_checkpoint(tmp_path / "a.tprog", CONFIG, arrays)
    text = str(caught.value)
    for part in ("model.norm.weight is missing", "layers.9.mlp.up_proj.weight is unknown", "[3, 3]", "int32"):
        assert part in text
    assert list(tmp_path.iterdir()) == []


def test_metadata_survives(tmp_path):
    progressive = Progressive.of(CONFIG).with_fields(training_progress={"steps": 12}, custom={"a": [1]})
    path = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG), progressive=progressive)
    checkpoint = open_checkpoint(path)
    assert checkpoint.progressive.steps == 12
    assert checkpoint.progressive.to_json()["custom"] == {"a": [1]}


def test_the_family_is_that_of_the_metadata(tmp_path):
    config = small_config(family="tritter")
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "a.tprog", config, random_arrays(config)))
    assert checkpoint.config.family == "tritter"
    (checkpoint.path / "progressive.json").unlink()
    assert open_checkpoint(checkpoint.path).config.family == "llama"


def test_the_check_sees_the_whole_directory_and_amends_its_metadata(tmp_path):
    def check(temporary):
        seen = open_checkpoint(temporary)
        assert not (tmp_path / "a.tprog").exists()
        assert_same_bits(tprog.numpy.load(seen), random_arrays(CONFIG))
        return seen.progressive.with_fields(measured=0.25)

    path = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG), check=check)
    progressive = open_checkpoint(path).progressive
    assert progressive.to_json()["measured"] == 0.25
    assert progressive.manifest.files.keys() == {"config.json", "model.safetensors.index.json", "weights.safetensors"}


def test_a_failed_check_leaves_nothing(tmp_path):
    def check(temporary):
        raise RuntimeError("not the same function")

    with pytest.raises(RuntimeError, match="same function"):
        write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG), check=check)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["weights.safetensors", "model.safetensors"])
def test_bare_weights_and_a_config_open_with_default_metadata(tmp_path, name):
    saved = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    bare = tmp_path / "bare"
    bare.mkdir()
    (saved / "config.json").rename(bare / "config.json")
    (saved / "weights.safetensors").rename(bare / name)
    checkpoint = open_checkpoint(bare)
    assert checkpoint.progressive == Progressive.of(checkpoint.config)
    assert_same_bits(tprog.numpy.load(checkpoint), random_arrays(CONFIG))


def test_a_hub_cache_snapshot_of_links_opens(tmp_path, saved):
    model = tmp_path / "models--a--b"
    (model / "blobs").mkdir(parents=True)
    snapshot = model / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(saved.iterdir()):
        path.rename(model / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert_same_bits(tprog.numpy.load(snapshot), random_arrays(CONFIG))


def test_a_link_to_the_directory_opens(tmp_path, saved):
    (tmp_path / "latest").symlink_to(saved)
    assert open_checkpoint(tmp_path / "latest").path == saved.resolve()


def test_a_link_out_of_the_directory_is_refused(tmp_path, saved):
    shard = next(saved.glob("weights-*"))
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    assert "a link to" in str(refusal(saved))


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/passwd", "a/../../b", "", "..", "C:\\x", "a\0b"])
def test_an_index_that_reaches_outside_is_refused(saved, name):
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = name
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "inside the directory" in str(refusal(saved))


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {}}])
def test_an_index_that_is_none_is_refused(saved, index):
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "weight_map" in str(refusal(saved))


def test_a_missing_shard_is_named(saved):
    shard = sorted(saved.glob("weights-*"))[1]
    shard.unlink()
    assert shard.name in refusal(saved).where


def test_a_missing_index_is_told_from_missing_weights(saved):
    (saved / "model.safetensors.index.json").unlink()
    assert "--repair-index" in refusal(saved).remedy


def test_a_shard_of_another_save_is_refused(tmp_path, saved):
    other = write_checkpoint(tmp_path / "b.tprog", CONFIG, random_arrays(CONFIG, seed=1), shard_size=1000)
    shard = sorted(saved.glob("weights-*"))[1]
    (other / shard.name).replace(shard)
    error = refusal(saved)
    assert len(error.findings) == 1
    assert f"{shard.name} belongs to save" in error.findings[0]


def test_metadata_of_another_save_is_refused(tmp_path, saved):
    other = write_checkpoint(tmp_path / "b.tprog", CONFIG, random_arrays(CONFIG), shard_size=1000)
    (other / "progressive.json").replace(saved / "progressive.json")
    assert "belongs to save" in str(refusal(saved))


def test_all_mismatches_are_listed_at_once(tmp_path):
    saved = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    (saved / "model.safetensors.index.json").unlink()

    def change(arrays):
        del arrays["model.norm.weight"]
        arrays["extra.weight"] = np.zeros(3, np.float32)
        arrays["lm_head.weight"] = np.zeros((2, 2), np.float32)
        arrays["model.layers.1.input_layernorm.weight"] = np.zeros(12, np.int8)

    rewrite_shard(saved / "weights.safetensors", change)
    text = str(refusal(saved))
    for part in (
        "model.norm.weight is missing",
        "extra.weight is unknown",
        "lm_head.weight has shape [2, 2]",
        "int8",
    ):
        assert part in text


def test_a_tensor_in_two_shards_is_refused(saved):
    first, second = sorted(saved.glob("weights-*"))[:2]
    name = next(iter(TensorFile.open(first).specs))
    rewrite_shard(second, lambda arrays: arrays.update({name: np.zeros(3, np.float32)}))
    assert f"{name} is in {first.name} and again in {second.name}" in str(refusal(saved))


def test_an_index_that_disagrees_with_the_files_is_refused(saved):
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    name = next(name for name, file in index["weight_map"].items() if file == shards[0])
    index["weight_map"][name] = shards[1]
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"{name} is not in {shards[1]}" in str(refusal(saved))


def test_a_second_set_of_weights_is_refused(saved):
    write_tensors(saved / "model.safetensors", random_arrays(CONFIG))
    assert "remove one of the two" in str(refusal(saved))


def test_rotary_buffers_are_left_out(tmp_path):
    saved = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    (saved / "model.safetensors.index.json").unlink()
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}
    rewrite_shard(saved / "weights.safetensors", lambda arrays: arrays.update(buffer))
    assert_same_bits(tprog.numpy.load(saved), random_arrays(CONFIG))


@pytest.mark.parametrize("equal", [True, False])
def test_an_output_layer_that_repeats_the_tied_embedding_is_dropped(tmp_path, equal):
    config = small_config(tie_embeddings=True)
    saved = write_checkpoint(tmp_path / "a.tprog", config, random_arrays(config))
    (saved / "model.safetensors.index.json").unlink()

    def change(arrays):
        arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"] + (0 if equal else 1)

    rewrite_shard(saved / "weights.safetensors", change)
    if equal:
        assert "lm_head.weight" not in open_checkpoint(saved).names
    else:
        assert "differs from model.embed_tokens.weight" in str(refusal(saved))


def test_sizes_that_contradict_each_other_are_refused(saved):
    progressive = json.loads((saved / "progressive.json").read_text())
    progressive["current_size"]["hidden_size"] = 13
    (saved / "progressive.json").write_text(json.dumps(progressive))
    assert "progressive.json says hidden_size 13" in str(refusal(saved))


def test_what_is_no_model_is_refused(tmp_path, saved):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    assert "nothing there" in str(refusal(tmp_path / "none"))
    assert "got another kind of file" in str(refusal(tmp_path / "file"))
    assert "config.json" in str(refusal(tmp_path / "empty"))
    for shard in saved.glob("weights-*"):
        shard.unlink()
    (saved / "model.safetensors.index.json").unlink()
    assert "weights in safetensors files" in str(refusal(saved))


def test_a_directory_of_pickles_is_refused_with_the_way_to_convert(tmp_path, saved):
    for path in saved.glob("*safetensors*"):
        path.unlink()
    (saved / "pytorch_model.bin").write_bytes(b"x")
    error = refusal(saved)
    assert "a pickle" in error.got
    assert "save_pretrained" in error.remedy


@pytest.mark.parametrize("content", [b"PK\3\4 a zip", b"", b"\0" * 100])
def test_a_weights_file_that_is_something_else_is_refused(tmp_path, content):
    saved = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    (saved / "weights.safetensors").write_bytes(content)
    assert "weights.safetensors" in refusal(saved).where


def test_a_pipe_in_the_directory_is_refused(tmp_path):
    saved = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    for name in ("weights.safetensors", "progressive.json"):
        (saved / name).unlink()
        os.mkfifo(saved / name)
        refusal(saved)


def test_quantised_weights_are_refused(tmp_path):
    saved = write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG))
    (saved / "model.safetensors.index.json").unlink()
    rewrite_shard(
        saved / "weights.safetensors",
        lambda arrays: arrays.update({name: array.astype(np.int8) for name, array in arrays.items()}),
    )
    assert len(refusal(saved).findings) == len(random_arrays(CONFIG))


def test_a_file_beside_the_index_is_not_read(saved):
    raw_file(saved / "unrelated.bin", {"x": entry(0, 4)})
    assert_same_bits(tprog.numpy.load(saved), random_arrays(CONFIG))


def test_shards_hold_whole_tensors():
    spec = TensorSpec(np.dtype("int8"), (10,))
    shards = plan_shards(dict.fromkeys("abcde", spec), 25)
    assert [list(shard) for shard in shards] == [["a", "b"], ["c", "d"], ["e"]]
    assert [list(shard) for shard in plan_shards({"a": spec, "b": spec}, 1)] == [["a"], ["b"]]


def test_numpy_load_converts(tmp_path):
    path = tprog.numpy.save(tmp_path / "a.tprog", random_arrays(CONFIG), CONFIG)
    loaded = tprog.numpy.load(path, dtype="bfloat16")
    assert {array.dtype.name for array in loaded.values()} == {"bfloat16"}
    with pytest.raises(FormatError, match="dtype: expected one of"):
        tprog.numpy.load(path, dtype="complex64")


@pytest.mark.parametrize(
    ("module", "absent"),
    [("tprog", ["jax", "torch", "flax"]), ("tprog.reader", ["jax", "torch"]), ("tprog.writer", ["jax", "torch"]),
     ("tprog.numpy", ["jax", "torch"]), ("tprog.torch", ["jax"]), ("tprog.flax", ["torch", "flax"]),
     ("tprog.huggingface", ["jax", "torch"])],
)  # fmt: skip
def test_imports_stay_apart(module, absent):
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


LINKS = (
    *("ewc/fisher.safetensors", "training/scheduler.json", "config.json", "progressive.json", "weights.safetensors"),
    *("model.safetensors.index.json", "tokenizer/tokenizer.json"),
)


@pytest.mark.parametrize("name", LINKS)
def test_a_file_that_is_a_link_to_itself_is_refused(saved, name):
    place = saved / name
    place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(place.name)
    with contextlib.suppress(TritterError):
        open_checkpoint(saved).to_parts()
    assert not verify(saved).ok


def test_a_path_that_is_a_link_to_itself_or_of_an_unknown_user_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop", tmp_path / "loop" / "inside", "~nobody-of-this-name/model"):
        with pytest.raises(FormatError, match="nothing there"):
            open_checkpoint(path)


def test_half_a_surrogate_pair_in_a_tensor_files_metadata_is_refused(tmp_path):
    text = rb'{"__metadata__":{"format":"\ud800"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path = raw_file(tmp_path / "a.safetensors", text, b"\0" * 4)
    with pytest.raises(FormatError, match="surrogate"):
        TensorFile.open(path)


def test_a_number_that_no_float_holds_is_refused_in_config_json():
    data = config_to_json(CONFIG)
    for field in ("rope_theta", "rms_norm_eps", "initializer_range"):
        with pytest.raises(TritterError, match=field):
            config_from_json(data | {field: 10**400})
