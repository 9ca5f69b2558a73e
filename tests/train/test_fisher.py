"""Measuring a checkpoint: what an interruption keeps, what goes on from it, meshes, and several tasks."""

import signal
from pathlib import Path

import jax
import numpy as np
import pytest
import tprog.flax
from tprog import FormatError, UsageError, disk
from tprog.jsonio import read_json, write_json
from tprog.reader import open_checkpoint

from tests.continual.references import off, tiny_config
from tests.support import random_params
from tritter_jax.continual import estimate, join, stored_memory
from tritter_jax.continual.accumulate import compile_step
from tritter_jax.sharding import MeshShape, make_mesh
from tritter_jax.train import fisher, measuring
from tritter_jax.train.fisher import measure_fisher

CONFIG = tiny_config(vocab_size=258, num_layers=1, num_heads=4, num_kv_heads=2, dtype="float32")
OPTIONS = {"samples": 30, "batch_size": 8, "sequence_length": 12}
COMPILED: dict = {}
TEXT = "".join(f"{i} times {i} is {i * i}.\n\n" for i in range(400))


@pytest.fixture(autouse=True)
def _compiled_once(monkeypatch):
    monkeypatch.setattr(
        estimate,
        "compile_step",
        lambda logits_of, params, row, draws, mesh: COMPILED.setdefault(
            (row, draws, mesh), compile_step(logits_of, params, row, draws, mesh)
        ),
    )


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


@pytest.fixture
def model(tmp_path):
    return tprog.flax.save(tmp_path / "m.tprog", random_params(CONFIG), CONFIG)


@pytest.fixture
def measure(model, text, tmp_path):
    """Measure into a new checkpoint; gives what was written, the rows that were told, and what was said."""

    def run(name: str, *, at=None, data=text, source=model, **options):
        told, said = [], []

        def report(progress):
            told.append(progress.rows)
            if at is not None:
                at(progress)

        out = tmp_path / name
        given = (
            OPTIONS
            | {"tokenizer": "bytes", "cache": tmp_path / "cache", "report": report, "say": said.append}
            | options
        )
        done = measure_fisher(open_checkpoint(source), data, out, **given)
        return open_checkpoint(done.path), told, said

    return run


def same(one, other) -> bool:
    a, b = (tprog.flax.load_part(each, "fisher") for each in (one, other))
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def entries(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.name.startswith("cut")}


def ask_at(rows: int, number: int):
    return lambda progress: signal.raise_signal(number) if progress.rows == rows else None


@pytest.mark.sends_signals
def test_what_a_signal_cuts_off_goes_on_to_the_same_numbers(measure, tmp_path):
    whole, rows, _ = measure("whole.tprog")
    assert rows == [8, 16, 24, 30]
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        measure("cut.tprog", at=ask_at(8, signal.SIGINT))
    with pytest.raises(SystemExit, match="143"):
        measure("cut.tprog", at=ask_at(16, signal.SIGTERM))
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert entries(tmp_path) == {"cut.tprog.measuring"}
    found, rows, said = measure("cut.tprog")
    assert rows == [24, 30]
    assert "going on after 16 rows" in said[0]
    assert same(found, whole)
    assert entries(tmp_path) == {"cut.tprog"}


def die_at(rows: int):
    def die(progress):
        if progress.rows == rows:
            raise RuntimeError("killed")

    return die


def test_what_dies_without_a_word_goes_on_from_the_last_save(measure, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "_RARELY", 0)
    whole, _, _ = measure("whole.tprog", estimator="empirical")
    with pytest.raises(RuntimeError):
        measure("cut.tprog", at=die_at(24), save_every=0, estimator="empirical")
    found, rows, _ = measure("cut.tprog", estimator="empirical")
    assert rows == [24, 30]
    assert same(found, whole)
    with pytest.raises(RuntimeError):
        measure("cut2.tprog", at=die_at(24))
    assert "cut2.tprog.measuring" not in entries(tmp_path)  # a minute had not gone by


@pytest.mark.sends_signals
def test_another_command_neither_goes_on_from_it_nor_throws_it_away(measure, model, text, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measure("cut.tprog", at=ask_at(16, signal.SIGINT))
    with pytest.raises(UsageError, match=r"(?s)got one that another began.*--restart.*seed: 0 there, 1 here"):
        measure("cut.tprog", seed=1)
    Path(text).write_text(TEXT + "And so on.")
    with pytest.raises(UsageError, match="data: "):
        measure("cut.tprog")
    Path(text).write_text(TEXT)
    _, rows, said = measure("cut.tprog", seed=1, restart=True)
    assert rows[0] == 8
    assert said == []
    assert entries(tmp_path) == {"cut.tprog"}


@pytest.mark.sends_signals
def test_what_was_begun_on_other_weights_is_left_and_said(measure, model):
    with pytest.raises(KeyboardInterrupt):
        measure("cut.tprog", at=ask_at(16, signal.SIGINT))
    tprog.flax.save(model, random_params(CONFIG, seed=1), CONFIG, overwrite=True)
    _, rows, said = measure("cut.tprog")
    assert rows[0] == 8
    assert "was begun on other weights; measuring anew" in said[0]


def spoil_sums(path: Path) -> None:
    data = bytearray((path / "squares.safetensors").read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    (path / "squares.safetensors").write_bytes(data)


def spoil_counts(path: Path) -> None:
    write_json(path / "state.json", read_json(path / "state.json") | {"tokens": -3})


def cut_short(path: Path) -> None:
    (path / "squares.safetensors").write_bytes((path / "squares.safetensors").read_bytes()[:-40])


@pytest.mark.sends_signals
@pytest.mark.parametrize("spoil", [spoil_sums, spoil_counts, cut_short])
def test_what_was_kept_and_is_broken_is_refused(measure, tmp_path, spoil):
    with pytest.raises(KeyboardInterrupt):
        measure("cut.tprog", at=ask_at(16, signal.SIGINT))
    spoil(tmp_path / "cut.tprog.measuring")
    with pytest.raises(FormatError, match=r"cut\.tprog\.measuring"):
        measure("cut.tprog")


@pytest.mark.sends_signals
def test_on_a_mesh_it_measures_and_goes_on_as_on_one_device(measure, tmp_path):
    alone, _, _ = measure("alone.tprog")
    mesh = make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    with pytest.raises(KeyboardInterrupt):
        measure("cut.tprog", at=ask_at(16, signal.SIGINT), mesh=mesh)
    spread, rows, _ = measure("cut.tprog", mesh=mesh)
    assert rows == [24, 30]
    one, other = (tprog.flax.load_part(each, "fisher") for each in (alone, spread))
    assert off(other, one) < 1e-5


def test_a_second_task_joins_the_first(measure, model, text):
    first, _, _ = measure("first.tprog")
    assert first.progressive.ewc_config.tasks == "single"
    moved = tprog.flax.save(
        model.with_name("moved.tprog"), random_params(CONFIG, seed=1), CONFIG, progressive=first.progressive,
        fisher=tprog.flax.load_part(first, "fisher"), old_params=tprog.flax.load_part(first, "old_params"),
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"--tasks: expected one of separate, online, single, since .* got none"):
        measure("second.tprog", source=moved)
    with pytest.raises(UsageError, match=r"gamma: expected a number from 0 to 1, got 1\.5"):
        measure("second.tprog", source=moved, tasks="online", gamma=1.5)
    single, _, _ = measure("single.tprog", source=moved, tasks="single", seed=3)
    both, _, _ = measure("both.tprog", source=moved, tasks="separate", seed=3)
    new, old = stored_memory(single), stored_memory(first)
    due, found = join(old, new), stored_memory(both)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert float(found.constant) > 0
    assert both.progressive.ewc_config.tasks == "separate"


def test_room_on_the_disk_is_asked_for_before_anything_is_measured(measure, monkeypatch):
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("measured first")

    usage = disk.shutil.disk_usage("/")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage._replace(free=disk._SPARE + 1000))
    monkeypatch.setattr(fisher, "estimate_fisher", never)
    with pytest.raises(UsageError, match="bytes free on the disk"):
        measure("full.tprog")


@pytest.mark.sends_signals
def test_counts_beyond_32_bits_are_kept_and_resumed(measure, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measure("cut.tprog", at=ask_at(8, signal.SIGINT))
    state = tmp_path / "cut.tprog.measuring" / "state.json"
    write_json(state, read_json(state) | {"tokens": (1 << 31) - 5})
    with pytest.raises(KeyboardInterrupt):
        measure("cut.tprog", at=ask_at(16, signal.SIGINT))
    assert read_json(state)["tokens"] == (1 << 31) - 5 + 8 * 12
    found, rows, _ = measure("cut.tprog")
    assert rows == [24, 30]
    assert found.progressive.ewc_config.to_json()["tokens"] == (1 << 31) - 5 + 22 * 12
