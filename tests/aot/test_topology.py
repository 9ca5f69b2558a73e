"""Slices of TPUs that there are, and what is said of those that there are not."""

import importlib.util

import pytest
from tprog import UsageError

from tritter_jax.aot import CHIPS, Topology
from tritter_jax.aot.topology import require_compiler

SLICES = {
    "v5e-16": ("v5e:4x4", 16),
    "v5litepod-16": ("v5e:4x4", 16),
    "v5e-64": ("v5e:8x8", 64),
    "v6e-16": ("v6e:4x4", 16),
    "v5p-8": ("v5p:2x2x1", 4),  # the name counts cores
    "v5p-64": ("v5p:2x4x4", 32),
    "tpu7x-8": ("tpu7x:2x2x1", 8),  # JAX counts cores here too
}


@pytest.mark.parametrize("name", SLICES)
def test_accelerator_names_are_understood(name):
    expected, devices = SLICES[name]
    assert (Topology.parse(name).name, Topology.parse(name).device_count) == (expected, devices)
    assert Topology.parse(expected) == Topology.parse(name)


def test_slices_multiply_the_devices():
    assert Topology.parse("v5e:4x4", 2).device_count == 32
    assert Topology.parse("v5p:8x8x12").device_count == 768  # beyond 4 x 4 x 4 in steps of 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e:3x3", "a slice that there is: v5e:2x2"),
        ("v5e:4x4x4", "a slice that there is"),  # libtpu itself would take it
        ("v5p:4x4", "a slice that there is: v5p:2x2x1"),
        ("v5p-7", "names count cores: v5p-32 is v5p:2x2x4"),
        ("v5e-17", "names count chips"),
        ("v7e:2x2", "one of v5e, v5p, v6e, tpu7x"),
        ("v5e", "a slice that there is"),
        ("", "one of v5e"),
        ("tpu7:2x2x1", "Did you mean tpu7x?"),
    ],
)
def test_a_slice_that_is_not_there_is_refused_with_those_that_are(name, said):
    with pytest.raises(UsageError, match="topology: expected") as raised:
        Topology.parse(name)
    assert said in str(raised.value)


def test_without_the_compiler_the_way_to_it_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'tritter-jax\[tpu\]'"):
        require_compiler()


class Device:
    """A device of a slice that is not here."""

    def __init__(self, device_kind: str, slice_index: int | None = None):
        self.device_kind, self.slice_index = device_kind, slice_index


def of(kind: str, count: int, slices: int = 1) -> list[Device]:
    return [Device(kind, number % slices) for number in range(count)]


def test_the_slice_that_is_named_is_taken():
    Topology.parse("v5e-16").require(of("TPU v5 lite", 16))
    Topology.parse("tpu7x-8", 2).require(of("TPU7x", 16, 2))


@pytest.mark.parametrize(
    ("topology", "slices", "devices", "got"),
    [
        ("v5e-16", 1, of("cpu", 1), "1 (cpu)"),
        ("v5e-16", 1, of("cpu", 16), "16 (cpu)"),
        ("v5e-16", 1, of("TPU v6 lite", 16), "16 (TPU v6 lite)"),
        ("v5e-16", 1, of("TPU v5 lite", 4), "4 (TPU v5 lite)"),  # one host of it, without --distributed
        ("v5e-16", 2, of("TPU v5 lite", 32), "32 (TPU v5 lite)"),
        ("v5e-16", 1, of("TPU v5 lite", 16, 2), "16 (TPU v5 lite) in 2 slices"),
    ],
)
def test_other_devices_are_refused(topology, slices, devices, got):
    with pytest.raises(UsageError, match=r"machine.topology: expected the \d+ devices \(TPU v5 lite\)") as raised:
        Topology.parse(topology, slices).require(devices)
    assert f"got {got}. Start it on all hosts" in str(raised.value)


def test_peaks_are_positive_and_name_their_source():
    for chip in CHIPS.values():
        assert min(chip.flops, chip.bandwidth, chip.links, chip.network, chip.memory) > 0
        assert chip.source.startswith("https://docs.cloud.google.com/tpu/docs/")
