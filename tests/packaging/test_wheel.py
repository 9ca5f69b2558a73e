"""The wheel alone, in an environment that holds nothing else: what is in it, what runs, and each extra by itself.

The slow ones install from the package index that pip is set up with.
"""

import email
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.packaging.environments import lowest, requirements

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "bucket": "import fsspec, gcsfs",
    "docs": "import material, mkdocstrings_handlers.python",
    "gguf": "from tprog.gguf_layout import library; library()",
    # tokenizers brings huggingface_hub of some version; the extra one that resumes and tries again.
    "hub": "from tprog.hub_errors import library; library().HfApi(); import tprog.card, tprog.hub, tprog.hub_push",
    "plots": "import matplotlib, tensorboardX",
    "torch": "import tprog.torch, transformers, accelerate",
    "tpu": "import libtpu, tritter_jax.aot",
}
"""What each extra is for. The tests run with `test`, which is all of them."""


def attempt(*command: object, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run something far from the checkout, with nothing of this environment on its path."""
    ours = ("PYTHONPATH", "XLA_FLAGS", "VIRTUAL_ENV")
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    words = list(map(str, command))
    return subprocess.run(words, cwd=directory, env=clean, capture_output=True, text=True, check=False)


def run(*command: object, directory: Path) -> str:
    """The same for what must succeed; gives what it printed."""
    done = attempt(*command, directory=directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from what a source distribution holds."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", directory, ROOT, directory=directory)
    (path,) = directory.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """The python of an environment with the wheel in it, and what that needs."""
    return install(tmp_path_factory.mktemp("bare"), str(wheel))


def install(directory: Path, requirement: str) -> Path:
    venv.create(directory / "venv", with_pip=True)
    python = directory / "venv" / "bin" / "python"
    constraints = ("-c", ROOT / "constraints.txt")
    run(python, "-m", "pip", "install", "-q", "--no-compile", *constraints, requirement, directory=directory)
    return python


def test_every_extra_is_known_here_and_is_in_the_one_for_tests():
    extras = PROJECT["optional-dependencies"]
    assert extras.keys() - {"test"} == EXTRAS.keys()
    (inside,) = re.findall(r"tritter-jax\[(.*)\]", " ".join(extras["test"]))
    assert set(inside.split(",")) >= EXTRAS.keys()


def test_every_dependency_has_a_lower_bound_that_can_be_tried():
    assert all(lowest(each) for each in requirements())
    assert lowest("jax[tpu]>=0.10; sys_platform == 'linux'") == "jax==0.10"
    assert lowest("jax") is None


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["title"], cited["version"], cited["license"]) == ("Tritter", PROJECT["version"], PROJECT["license"])
    assert cited["cff-version"] == "1.2.0"
    assert cited["authors"]
    assert cited["message"]


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_nothing_of_the_checkout(wheel):
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    (record,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"tprog", "tritter_jax", record.partition("/")[0]}
    assert {"tprog/py.typed", "tritter_jax/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    metadata = email.message_from_bytes(archive.read(record))
    assert set(metadata.get_all("Provides-Extra")) == PROJECT["optional-dependencies"].keys()
    assert metadata["Requires-Python"] == PROJECT["requires-python"]


@pytest.mark.slow
def test_the_wheel_alone_runs_the_demo(bare, tmp_path):
    where = run(
        bare, "-c", "import tprog, tritter_jax; print(tprog.__file__, tritter_jax.__file__)", directory=tmp_path
    )
    assert str(ROOT) not in where
    printed = run(bare.with_name("tritter"), "demo", "--steps", "2", directory=tmp_path)
    assert "as it should be" in printed
    assert "NOT as it should be" not in printed


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_without_an_extra_nothing_of_it_is_there_and_with_it_alone_all_is(wheel, bare, tmp_path, extra):
    assert extra == "hub" or attempt(bare, "-c", EXTRAS[extra], directory=tmp_path).returncode != 0
    python = install(tmp_path, f"tritter-jax[{extra}] @ {wheel.as_uri()}")
    run(python, "-W", "error::DeprecationWarning:tprog", "-c", EXTRAS[extra], directory=tmp_path)
    run(python.with_name("tritter"), "sizes", directory=tmp_path)
