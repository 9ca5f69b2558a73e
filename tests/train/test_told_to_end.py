"""The tests end when they are told to, also where a run under test would take the signal and stop alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = """
import signal, sys, time
from pathlib import Path
from tritter_jax.train.interrupt import preemption

def test_a_run_under_test():
    with preemption() as preempted:
        Path("running").touch()
        for _ in range(600):
            if preempted():
                return
            time.sleep(0.1)

def test_behind_it():
    Path("went-on").touch()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_a_training_test_ends_the_session(tmp_path, number):
    root = Path(__file__).parents[2]
    (tmp_path / "conftest.py").write_text((root / "tests" / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    sends_signals\n")
    (tmp_path / "test_inner.py").write_text(TESTS)
    options = ["-p", "no:cacheprovider", "-q", "--rootdir", str(tmp_path)]
    inner = [sys.executable, "-m", "pytest", "test_inner.py", *options]
    process = subprocess.Popen(inner, cwd=tmp_path, env=os.environ, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(1200):
            if (tmp_path / "running").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(number)
        text, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + number, text
    assert "asked to end by signal" in text
    assert not (tmp_path / "went-on").exists()
