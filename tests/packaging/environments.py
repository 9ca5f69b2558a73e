"""Builds an environment with the lowest or the newest versions that pyproject.toml allows, and runs tests in it.

    python -m tests.packaging.environments lowest
    python -m tests.packaging.environments newest --python python3.12

It prints the versions, then what the tests print, and exits as they do. Torch is the one of constraints.txt in both.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = ("torch", "hub", "gguf", "plots")
TOOLS = ("beartype", "hypothesis", "pytest", "pytest-xdist")
TESTS = (
    "tests/cli/test_every_command.py",
    "tests/cli/test_completion.py",
    "tests/contracts/test_files.py",
    "tests/data",
    "tests/growth/test_expand.py",
    "tests/growth/test_optimizer.py",
    "tests/hub",
    "tests/model/test_parity.py",
    "tests/report/test_page.py",
    "tests/tprog",
    "tests/train/test_run.py",
)
"""A few minutes' worth that go through every dependency."""
QUIET = ("-W", "default::DeprecationWarning", "-W", "default::FutureWarning")
"""What releases that do not belong together say of each other is no mistake of ours."""


def requirements() -> list[str]:
    """What pyproject.toml asks for, the extras' included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(each for extra in EXTRAS for each in project["optional-dependencies"][extra])]


def lowest(requirement: str) -> str | None:
    """The requirement at its lower bound; None where it has none.

    Example:
        >>> lowest("jax>=0.10"), lowest("numpy>=2.0,!=2.1"), lowest("x")
        ('jax==0.10', 'numpy==2.0', None)
    """
    match = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*>=\s*([\w.]+)", requirement)
    return f"{match[1]}=={match[2]}" if match else None


def run(*command: object) -> int:
    """Run something with nothing of this environment on its path; gives its exit code."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(list(map(str, command)), cwd=ROOT, env=clean, check=False).returncode


def main() -> int:
    """Build, install, test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", choices=["lowest", "newest"])
    parser.add_argument("--python", default=sys.executable, help="the interpreter the environment is made with")
    parser.add_argument("--directory", type=Path, help="where the environment goes; a temporary one without")
    parser.add_argument("tests", nargs="*", help="instead of the chosen ones")
    chosen = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = chosen.directory or Path(temporary)
        python = directory / "venv" / "bin" / "python"
        bounds = directory / "bounds.txt"
        pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
        names = set(re.findall(r"^([\w.-]+)==", pinned, re.MULTILINE))
        asked = requirements() if chosen.versions == "lowest" else []
        low = [each for each in map(lowest, asked) if each and each.partition("==")[0] not in names]
        directory.mkdir(parents=True, exist_ok=True)
        bounds.write_text("\n".join([pinned, *low, ""]), encoding="utf-8")
        steps = (
            (chosen.python, "-m", "venv", directory / "venv"),
            (python, "-m", "pip", "install", "-q", "-c", bounds, "-e", f".[{','.join(EXTRAS)}]", *TOOLS),
            (python, "-m", "pip", "list"),
        )
        for step in steps:
            if code := run(*step):
                return code
        return run(python, "-m", "pytest", "-q", *QUIET, *(chosen.tests or TESTS))


if __name__ == "__main__":
    sys.exit(main())
