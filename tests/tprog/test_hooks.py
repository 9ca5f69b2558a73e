"""Hooks never run unless they are trusted and are the ones that were saved."""

import pytest
from tprog.errors import FormatError, UsageError
from tprog.hooks import find_hooks, run_hooks
from tprog.parts import Parts
from tprog.writer import write_checkpoint

from tests.tprog.files import random_arrays, small_config

CONFIG = small_config()
SOURCE = b"""
import os
from pathlib import Path

Path(__file__).with_name("ran").write_text("x")

def expand(x):
    import json
    return x + 1

class Strategy: ...
"""


def saved(tmp_path, source=SOURCE):
    return write_checkpoint(tmp_path / "a.tprog", CONFIG, random_arrays(CONFIG), parts=Parts(hooks=source))


def ran(path) -> bool:
    return (path / "ran").exists()


def test_hooks_are_described_without_being_run(tmp_path):
    path = saved(tmp_path)
    hooks = find_hooks(path)
    assert hooks.defines == ("expand", "Strategy")
    assert hooks.imports == ("json", "os", "pathlib")
    assert hooks.sha256 == hooks.recorded
    assert not ran(path)


def test_hooks_do_not_run_by_default(tmp_path):
    path = saved(tmp_path)
    with pytest.raises(UsageError, match="--trust-hooks") as caught:
        run_hooks(path)
    assert "defining expand, Strategy" in caught.value.got
    assert not ran(path)


def test_trusted_hooks_run(tmp_path):
    path = saved(tmp_path)
    assert run_hooks(path, trust=True).expand(1) == 2
    assert ran(path)


def test_changed_hooks_do_not_run_even_when_trusted(tmp_path):
    path = saved(tmp_path)
    (path / "expansion_hooks.py").write_bytes(SOURCE + b"#")
    with pytest.raises(UsageError, match="on record"):
        run_hooks(path, trust=True)
    assert not ran(path)


def test_hooks_without_a_record_do_not_run(tmp_path):
    path = saved(tmp_path)
    (path / "progressive.json").unlink()
    with pytest.raises(UsageError, match="on record is none"):
        run_hooks(path, trust=True)
    assert not ran(path)


def test_no_hooks_are_nothing(tmp_path):
    path = saved(tmp_path, source=None)
    assert find_hooks(path) is None
    assert run_hooks(path, trust=True) is None


@pytest.mark.parametrize("source", [b"def (", b"\xff", b"(" * 5000, b"#" * (2 << 20)])
def test_hooks_that_are_no_python_are_refused(tmp_path, source):
    with pytest.raises(UsageError, match=r"expansion_hooks\.py"):
        find_hooks(saved(tmp_path, source))


def test_hooks_that_are_a_link_out_are_refused(tmp_path):
    path = saved(tmp_path)
    (tmp_path / "other.py").write_bytes(SOURCE)
    (path / "expansion_hooks.py").unlink()
    (path / "expansion_hooks.py").symlink_to(tmp_path / "other.py")
    with pytest.raises(FormatError, match="a link to"):
        run_hooks(path, trust=True)
