"""Tensor files: what is written is read back and accepted by others; what is malformed is refused."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from tprog.bounds import HEADER
from tprog.dtypes import BY_CODE
from tprog.errors import FormatError, ParameterError
from tprog.tensorfile import TensorFile, TensorWriter, write_tensors
from tprog.tensorheader import ALIGNMENT, TensorSpec

from tests.tprog.files import assert_same_bits, entry, raw_file


def arrays_of_every_dtype() -> dict[str, np.ndarray]:
    bits = np.random.default_rng(0).integers(0, 256, 48, dtype=np.uint8)
    bits[:] = np.where(bits == 0x7F, 0, bits)
    arrays = {code: bits.view(dtype).reshape(3, -1) for code, dtype in BY_CODE.items() if code != "BOOL"}
    return arrays | {"BOOL": (bits % 2).astype(bool), "scalar": np.array(3, np.float32), "empty": np.zeros((0, 5))}


def test_every_dtype_survives(tmp_path):
    arrays = arrays_of_every_dtype()
    write_tensors(tmp_path / "a.safetensors", arrays)
    file = TensorFile.open(tmp_path / "a.safetensors")
    assert_same_bits({name: file.tensor(name) for name in file.specs}, arrays)


def test_data_is_aligned_for_zero_copy(tmp_path):
    write_tensors(tmp_path / "a.safetensors", arrays_of_every_dtype())
    header = TensorFile.open(tmp_path / "a.safetensors").header
    assert min(header.offsets.values()) % ALIGNMENT == 0
    assert all(header.offsets[name] % spec.dtype.itemsize == 0 for name, spec in header.specs.items())


def test_the_reference_implementation_reads_ours(tmp_path):
    arrays = {name: array for name, array in arrays_of_every_dtype().items() if not name.startswith("F8")}
    write_tensors(tmp_path / "a.safetensors", arrays)
    assert_same_bits(safetensors.numpy.load_file(tmp_path / "a.safetensors"), arrays)


def test_ours_reads_the_reference_implementation(tmp_path):
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.arange(3, dtype=np.int8)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors", metadata={"format": "np"})
    file = TensorFile.open(tmp_path / "a.safetensors")
    assert_same_bits({name: file.tensor(name) for name in file.specs}, arrays)
    assert file.header.metadata == {"format": "np"}


def test_a_transposed_array_is_written_in_its_own_order(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_tensors(tmp_path / "a.safetensors", {"x": array})
    assert np.array_equal(TensorFile.open(tmp_path / "a.safetensors").tensor("x"), array)


def test_views_are_read_only_and_share_the_mapping(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"x": np.ones(4, np.float32)})
    file = TensorFile.open(tmp_path / "a.safetensors")
    view = file.tensor("x")
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 2
    assert np.shares_memory(view, np.frombuffer(file.data, np.uint8))


def test_an_unknown_tensor_is_named(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"x": np.ones(4, np.float32)})
    with pytest.raises(ParameterError, match="nope: expected a tensor of"):
        TensorFile.open(tmp_path / "a.safetensors").tensor("nope")


def test_the_hash_is_that_of_the_file(tmp_path):
    import hashlib

    digest = write_tensors(tmp_path / "a.safetensors", {"x": np.random.default_rng(0).standard_normal(3_000_000)})
    assert digest == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()


def test_the_file_mode_follows_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_tensors(tmp_path / "a.safetensors", {"x": np.ones(4, np.float32)})
    finally:
        os.umask(old)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("y", np.ones(2, np.float32), "expected x next"),
        ("x", np.ones(3, np.float32), r"expected float32 \[2\], got float32 \[3\]"),
        ("x", np.ones(2, np.float64), r"got float64 \[2\]"),
    ],
)
def test_a_tensor_other_than_announced_is_refused(tmp_path, name, array, message):
    with (
        pytest.raises(ParameterError, match=message),
        TensorWriter(tmp_path / "a", {"x": TensorSpec(np.dtype("float32"), (2,))}) as writer,
    ):
        writer.write(name, array)


def test_a_tensor_left_out_is_refused(tmp_path):
    with (
        pytest.raises(ParameterError, match="the next is x"),
        TensorWriter(tmp_path / "a", {"x": TensorSpec(np.dtype("float32"), (2,))}),
    ):
        pass


ONE = {"x": entry(0, 8)}
MALFORMED = {
    "overlap": ({"x": entry(0, 8), "y": entry(4, 12)}, b"\0" * 12, "overlaps the one before it"),
    "same range twice": ({"x": entry(0, 8), "y": entry(0, 8)}, b"\0" * 8, "overlaps"),
    "hole": ({"x": entry(0, 8), "y": entry(12, 16)}, b"\0" * 16, "leaves a hole of 4"),
    "hole at the start": ({"x": entry(4, 8)}, b"\0" * 8, "leaves a hole"),
    "backwards": ({"x": {**entry(0, 8), "data_offsets": [8, 0]}}, b"\0" * 8, "rising order"),
    "negative": ({"x": {**entry(0, 8), "data_offsets": [-8, 0]}}, b"\0" * 8, "rising order"),
    "past the end": ({"x": entry(0, 16)}, b"\0" * 8, "cut short"),
    "trailing bytes": (ONE, b"\0" * 9, "no tensor owns"),
    "nothing but trailing bytes": ({}, b"\0", "no tensor owns"),
    "wrong width": ({"x": entry(0, 8, shape=[3])}, b"\0" * 8, "12 bytes, as F32 of shape"),
    "unknown dtype": ({"x": entry(0, 8, "F6")}, b"\0" * 8, "a dtype out of"),
    "dtype no text": ({"x": {**entry(0, 8), "dtype": ["F32"]}}, b"\0" * 8, "a dtype out of"),
    "negative axis": ({"x": entry(0, 8, shape=[-2])}, b"\0" * 8, "whole numbers"),
    "fractional axis": ({"x": entry(0, 8, shape=[2.0])}, b"\0" * 8, "whole numbers"),
    "axis true": ({"x": entry(0, 4, shape=[True])}, b"\0" * 4, "whole numbers"),
    "huge axes": ({"x": entry(0, 0, shape=[0, 2**62, 2**62])}, b"", "can be addressed"),
    "axis beyond 64 bits": ({"x": entry(0, 0, shape=[0, 2**70])}, b"", "whole numbers"),
    "many axes": ({"x": entry(0, 4, shape=[1] * 40)}, b"\0" * 4, "at most 16"),
    "three offsets": ({"x": {**entry(0, 8), "data_offsets": [0, 8, 8]}}, b"\0" * 8, "two offsets"),
    "no shape": ({"x": {"dtype": "F32", "data_offsets": [0, 8]}}, b"\0" * 8, "dtype, shape and data_offsets"),
    "a field too many": ({"x": {**entry(0, 8), "strides": [1]}}, b"\0" * 8, "dtype, shape and data_offsets"),
    "entry no object": ({"x": 3}, b"", "dtype, shape and data_offsets"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "map names to texts"),
    "metadata no object": ({"__metadata__": "pt"}, b"", "map names to texts"),
    "leading space": (b' {"x":1}', b"", "begins with {"),
    "a list": (b"[1]", b"", "begins with {"),
    "not JSON": (b"{]", b"", "a JSON object"),
    "UTF-16": ('{"x":1}'.encode("utf-16-le"), b"", "a JSON object"),
    "not UTF-8": (b'{"\xff":1}', b"", "not UTF-8"),
    "half a character": (b'{"\\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}', b"", "surrogate"),
    "NaN": (b'{"x":NaN}', b"", "JSON does not have"),
    "the same name twice": (b'{"x":1,"x":1}', b"", "twice"),
    "the same name by escape": (b'{"x":1,"\\u0078":1}', b"", "twice"),
    "nested deep": (b'{"x":' + b"[" * 100_000, b"", "nested too deep"),
    "nested deep in objects": (b'{"x":' * 50_000, b"", "nested too deep"),
    "a number of a million digits": (b'{"x":' + b"9" * 1_000_000 + b"}", b"", "a JSON object"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_files_are_refused(tmp_path, case):
    header, body, message = MALFORMED[case]
    path = raw_file(tmp_path / "bad.safetensors", header, body)
    with pytest.raises(FormatError, match=r"bad\.safetensors") as caught:
        TensorFile.open(path)
    assert message in str(caught.value)
    assert caught.value.remedy


def test_the_well_formed_neighbour_is_accepted(tmp_path):
    path = raw_file(tmp_path / "good.safetensors", ONE, b"\0" * 8)
    assert TensorFile.open(path).tensor("x").tolist() == [0, 0]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 30, 69])
def test_a_file_cut_short_is_refused(tmp_path, size):
    path = raw_file(tmp_path / "cut.safetensors", ONE, b"\0" * 8)
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(FormatError, match=r"cut\.safetensors"):
        TensorFile.open(path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10_000, 0, 1])
def test_a_wrong_header_length_is_refused(tmp_path, length):
    with pytest.raises(FormatError):
        TensorFile.open(raw_file(tmp_path / "a", ONE, b"\0" * 8, length=length))


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="a pipe, socket or device"):
        TensorFile.open(tmp_path / "pipe")


def test_a_directory_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(FormatError, match="a directory"):
        TensorFile.open(tmp_path)
    with pytest.raises(FormatError, match="No such file"):
        TensorFile.open(tmp_path / "none")


def test_hostile_headers_cost_little(tmp_path):
    """Each is refused within a second and 100 MB, parsing included."""
    entries = b",".join(
        b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(HEADER.values + 9)
    )
    headers = {
        "long": b"{" + b" " * HEADER.nbytes + b"}",
        "names": b"{" + entries + b"}",
        "objects": b'{"a":[' + b"{}," * 1_000_000 + b"{}]}",
        "lists": b'{"a":[' + b"[]," * 2_000_000 + b"[]]}",
        "numbers": b'{"a":[' + b"1," * 3_000_000 + b"1]}",
        "within the bounds": b'{"a":[' + b"12345678," * 900_000 + '"\U0001f600"]}'.encode(),
    }
    for name, header in headers.items():
        raw_file(tmp_path / name, header)
    code = """
import resource, sys, time
from tprog.errors import FormatError
from tprog.tensorfile import TensorFile
for path in sys.argv[1:]:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        TensorFile.open(path)
    except FormatError:
        print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    arguments = [str(tmp_path / name) for name in headers]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    costs = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert len(costs) == len(headers)
    assert max(seconds for seconds, _ in costs) < 1
    assert max(kilobytes for _, kilobytes in costs) < 100_000


def test_opening_reads_no_tensor(tmp_path):
    """A sparse file of 64 GB opens at once."""
    path = raw_file(tmp_path / "big", {"x": entry(0, 1 << 36)})
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (1 << 36))
    start = time.perf_counter()
    view = TensorFile.open(path).tensor("x")
    assert time.perf_counter() - start < 1
    assert view.shape == (1 << 34,)
    assert view[-1] == 0


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda name: name != "__metadata__")
tables = st.dictionaries(names, st.tuples(st.sampled_from(sorted(BY_CODE)), shapes), max_size=6)


@settings(max_examples=60, deadline=None)
@given(tables, st.dictionaries(names, st.text(st.characters(codec="utf-8"), max_size=9), max_size=2))
def test_any_table_survives(tmp_path_factory, table, metadata):
    path = tmp_path_factory.mktemp("any") / "a.safetensors"
    generator = np.random.default_rng(0)
    arrays = {}
    for name, (code, shape) in table.items():
        dtype = BY_CODE[code]
        raw = generator.integers(0, 2, int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
        arrays[name] = raw.view(dtype).reshape(shape)
    write_tensors(path, arrays, metadata)
    file = TensorFile.open(path)
    assert_same_bits({name: file.tensor(name) for name in file.specs}, arrays)
    assert file.header.metadata == {"format": "pt"} | metadata


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_byte_is_refused_or_read_within_bounds(tmp_path_factory, data):
    """Whatever a header says, a view that is handed out lies inside the file."""
    directory = tmp_path_factory.mktemp("flip")
    write_tensors(directory / "a", {"x": np.ones(4, np.float32), "y": np.ones((2, 3), np.int8)})
    content = bytearray((directory / "a").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    (directory / "b").write_bytes(content)
    try:
        file = TensorFile.open(directory / "b")
    except FormatError:
        return
    assert sum(file.tensor(name).nbytes for name in file.specs) <= len(content) - 10


def test_views_are_read_from_the_file(tmp_path):
    arrays = {"x": np.arange(20.0).reshape(4, 5), "y": np.arange(6.0).reshape(2, 3)}
    write_tensors(tmp_path / "a.safetensors", arrays)
    file = TensorFile.open(tmp_path / "a.safetensors")
    for view in (file.tensor("x"), file.tensor("y"), file.tensor("x")[1:3], file.tensor("x")[::2, 1:4]):
        buffer = np.zeros(view.shape)
        file.read(buffer, view)
        assert np.array_equal(buffer, view)


def test_a_file_cut_while_it_is_open_is_told(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": np.ones((64, 1024))})
    file = TensorFile.open(path)
    os.truncate(path, 4096)
    with pytest.raises(FormatError, match="cut while it was open"):
        file.read(np.zeros((64, 1024)), file.tensor("x"))


def _descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_descriptors_go_with_their_files(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": np.ones(2)})
    before = _descriptors()
    held = [TensorFile.open(path) for _ in range(20)]
    assert _descriptors() > before
    del held
    gc.collect()
    assert _descriptors() == before
