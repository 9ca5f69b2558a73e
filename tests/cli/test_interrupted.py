"""`tritter expand` in a process of its own, interrupted and killed while it writes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import tprog.flax
from tprog import ModelConfig, config_to_json
from tprog.jsonio import write_json
from tprog.verify import verify

from tests.support import random_params

SMALL = ModelConfig(
    family="llama", hidden_size=256, num_layers=8, num_heads=8, num_kv_heads=4, intermediate_size=512, vocab_size=512
)
FILES = 3
"""Whole files that are there when the signal comes, of some eighty."""
ATTEMPTS = 5


@pytest.fixture
def command(tmp_path):
    tprog.flax.save(tmp_path / "small.tprog", random_params(SMALL), SMALL)
    write_json(tmp_path / "large.json", config_to_json(replace(SMALL, num_layers=12, intermediate_size=1024)))
    paths = [
        "--from",
        tmp_path / "small.tprog",
        "--to",
        tmp_path / "large.json",
        "--out",
        tmp_path / "to" / "large.tprog",
    ]
    # What is started in the background of a shell ignores Ctrl-C, and so do its children.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    tritter = [sys.executable, "-c", f"{heard}; from tritter_jax.cli.main import main; main()"]
    return [*map(str, [*tritter, "expand", *paths, "--shard-size", "1MB", "--no-verify"])]


def start(command) -> subprocess.Popen:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def signalled(command, to, number: signal.Signals) -> subprocess.CompletedProcess:
    """The outcome of a run that gets a signal in the midst of its files; once more where all was written before."""
    for _ in range(ATTEMPTS):
        process = start(command)
        while process.poll() is None and len(list(to.glob("*/weights-*"))) <= FILES:
            time.sleep(0.001)
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
        if not (to / "large.tprog").exists():
            return subprocess.CompletedProcess(command, process.returncode, out, error)
        shutil.rmtree(to)
    pytest.fail("the signal always came when all was written")


def test_ctrl_c_removes_what_was_written(command, tmp_path):
    outcome = signalled(command, tmp_path / "to", signal.SIGINT)
    assert outcome.returncode == 130
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "to").exists() or list((tmp_path / "to").iterdir()) == []


def test_after_a_kill_there_is_no_result_and_resume_keeps_the_whole_files(command, tmp_path):
    to = tmp_path / "to"
    assert signalled(command, to, signal.SIGKILL).returncode == -signal.SIGKILL
    (litter,) = (path for path in to.iterdir() if path.is_dir())  # beside its lock
    whole = {path.name: path.stat().st_ino for path in litter.glob("weights-*")}
    again = start([*command, "--resume"])
    _, error = again.communicate(timeout=60)
    assert again.returncode == 0, error
    assert [path.name for path in to.iterdir()] == ["large.tprog"]
    assert verify(to / "large.tprog").findings == ()
    kept = [name for name, inode in whole.items() if (to / "large.tprog" / name).stat().st_ino == inode]
    assert len(whole) - len(kept) <= 1
