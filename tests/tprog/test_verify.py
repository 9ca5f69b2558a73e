"""verify finds what is wrong, all of it at once; repair_index rebuilds an index; diff names what differs."""

import json

import numpy as np
import pytest
from tprog.diff import diff
from tprog.errors import FormatError
from tprog.index_repair import repair_index
from tprog.numpy import load, save
from tprog.parts import Parts
from tprog.tensorfile import TensorFile, write_tensors
from tprog.verify import verify
from tprog.writer import write_checkpoint

from tests.tprog.files import assert_same_bits, random_arrays, small_config

CONFIG = small_config()


@pytest.fixture
def saved(tmp_path):
    parts = Parts(
        fisher=random_arrays(CONFIG, 1), scheduler={"warmup": 1}, hooks=b"X = 1\n",
        rng_state={"jax.threefry2x32": np.zeros(2, np.uint32)},
    )  # fmt: skip
    return write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG), parts=parts, shard_size=1000)


def problems(path, **options) -> dict[str, str]:
    return {finding.file: finding.problem for finding in verify(path, **options).findings}


def shard(path, number: int = 1):
    return sorted(path.glob("weights-*"))[number]


def flip(path, offset: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x01
    path.write_bytes(content)


def test_a_whole_checkpoint_has_no_findings(saved):
    report = verify(saved)
    assert report.ok
    assert report.files == len([path for path in saved.rglob("*") if path.is_file()])
    assert report.checksums == report.files - 1
    assert report.tensors == 2 * len(random_arrays(CONFIG)) + 1
    assert report.nbytes == sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())


def test_a_hugging_face_directory_is_verified_without_checksums(tmp_path, saved):
    (saved / "progressive.json").unlink()
    report = verify(saved)
    assert (report.ok, report.checksums) == (True, 0)


def test_one_flipped_bit_is_found(saved):
    flip(shard(saved))
    assert set(problems(saved)) == {shard(saved).name}
    assert "checksum" in problems(saved)[shard(saved).name]
    assert verify(saved, checksums=False).ok


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found(tmp_path, dtype, value):
    config = small_config(dtype=dtype)
    arrays = random_arrays(config)
    arrays["model.norm.weight"][5] = value
    path = save(tmp_path / "a.tprog", arrays, config)
    assert problems(path) == {"weights.safetensors": "model.norm.weight holds values that are not finite"}
    assert verify(path, finite=False).ok


def test_everything_wrong_is_found_at_once(saved):
    flip(shard(saved, 0))
    shard(saved, 2).write_bytes(shard(saved, 2).read_bytes()[:-1])
    (saved / "training" / "scheduler.json").write_text("{")
    (saved / "expansion_hooks.py").write_text("X = 2\n")
    (saved / "ewc" / "stray.safetensors").write_bytes(b"")
    fisher = next(saved.glob("ewc/fisher-00001*"))
    fisher.unlink()
    found = problems(saved)
    assert {
        shard(saved, 0).name,
        shard(saved, 2).name,
        "training/scheduler.json",
        "expansion_hooks.py",
        "ewc/stray.safetensors",
        f"ewc/{fisher.name}",
    } <= set(found)


def test_a_broken_part_is_found_where_the_weights_are_whole(saved):
    next(saved.glob("ewc/fisher-00001*")).unlink()
    assert any(name.startswith("ewc/fisher") for name in problems(saved, checksums=False))


def test_files_that_are_not_on_record_are_found(saved):
    write_tensors(saved / "training" / "optimizer.safetensors", {"step": np.asarray(1)})
    assert any("not on record" in finding.problem for finding in verify(saved).findings)


def test_what_is_no_directory_is_refused(tmp_path):
    with pytest.raises(FormatError):
        verify(tmp_path / "none")


def test_an_empty_directory_is_reported(tmp_path):
    assert not verify(tmp_path).ok


def test_the_index_is_rebuilt_as_it_was(saved):
    index = saved / "model.safetensors.index.json"
    before = index.read_bytes()
    index.unlink()
    assert repair_index(saved) == index
    assert index.read_bytes() == before
    assert verify(saved).ok


def test_a_wrong_index_is_replaced_and_recorded(saved):
    index = saved / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "y"}}, indent=1))
    repair_index(saved)
    assert verify(saved).ok
    assert_same_bits(load(saved), random_arrays(CONFIG))


def test_an_index_is_not_rebuilt_from_an_incomplete_set(saved):
    (saved / "model.safetensors.index.json").unlink()
    shard(saved).unlink()
    with pytest.raises(FormatError, match="every shard of one set"):
        repair_index(saved)
    assert not (saved / "model.safetensors.index.json").exists()


def test_an_index_is_not_rebuilt_over_a_tensor_in_two_files(saved):
    name = next(iter(TensorFile.open(shard(saved, 0)).specs))
    shard(saved, 1).unlink()
    write_tensors(
        sorted(saved.glob("weights-*"))[0].with_name("weights-00002-of-00011.safetensors"), {name: np.zeros(1)}
    )
    count = len(list(saved.glob("weights-*")))
    for number, path in enumerate(sorted(saved.glob("weights-*")), 1):
        path.rename(saved / f"weights-{number:05d}-of-{count:05d}.safetensors")
    with pytest.raises(FormatError, match="each tensor in one file"):
        repair_index(saved)


def test_equal_checkpoints_do_not_differ(tmp_path, saved):
    copy = save(tmp_path / "b.tprog", random_arrays(CONFIG), CONFIG)
    found = diff(saved, copy)
    assert found.same_model
    assert found.equal == len(random_arrays(CONFIG))
    assert not found.metadata


def test_differences_are_named_largest_first(tmp_path, saved):
    arrays = random_arrays(CONFIG)
    arrays["model.norm.weight"] = arrays["model.norm.weight"] + np.float32(1e-3)
    arrays["lm_head.weight"] = arrays["lm_head.weight"] * np.float32(1.5)
    arrays["model.embed_tokens.weight"] = arrays["model.embed_tokens.weight"].astype(np.float64)
    found = diff(saved, save(tmp_path / "b.tprog", arrays, CONFIG))
    assert [entry.name for entry in found.tensors] == [
        "lm_head.weight",
        "model.norm.weight",
        "model.embed_tokens.weight",
    ]
    head, norm, embedding = found.tensors
    assert head.relative == pytest.approx(1 / 3, rel=1e-6)
    assert norm.largest == pytest.approx(1e-3, rel=1e-3)
    assert (embedding.largest, embedding.what) == (0.0, "float32 and float64")


def test_models_of_other_sizes_are_compared(tmp_path, saved):
    config = small_config(num_layers=3, intermediate_size=11)
    found = diff(saved, save(tmp_path / "b.tprog", random_arrays(config), config))
    assert found.config["num_layers"] == (2, 3)
    assert found.metadata["current_size.num_layers"] == (2, 3)
    assert found.only_a == ()
    assert all(name.startswith("model.layers.2.") for name in found.only_b)
    shapes = {entry.name: entry.what for entry in found.tensors if entry.largest is None}
    assert shapes["model.layers.0.mlp.up_proj.weight"] == "shape [10, 12] and [11, 12]"


def test_values_that_are_not_finite_are_compared(tmp_path):
    arrays = random_arrays(CONFIG)
    arrays["model.norm.weight"][:3] = [np.nan, np.inf, 1.0]
    one = save(tmp_path / "a.tprog", arrays, CONFIG)
    arrays["model.norm.weight"] = np.where(np.arange(12) == 2, np.float32(2), arrays["model.norm.weight"])
    (entry,) = diff(one, save(tmp_path / "b.tprog", arrays, CONFIG)).tensors
    assert entry.largest == 1.0
    arrays["model.norm.weight"] = np.where(np.arange(12) == 0, np.float32(2), arrays["model.norm.weight"])
    (entry,) = diff(one, save(tmp_path / "c.tprog", arrays, CONFIG)).tensors
    assert entry.largest == np.inf
