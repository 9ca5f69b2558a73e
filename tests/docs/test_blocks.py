"""The blocks that pages show do what they say: in order, in an empty directory, at the sizes of `SIZES` below.

A new block, or a new page, is run unasked. What is not run has a row in `NOT_RUN` that says why; test_commands.py
holds it to the options that exist.
"""

import itertools
import re
import shutil
from dataclasses import replace

import jax
import pytest
import tprog.sizes
from tprog.huggingface import export_directory
from tprog.numpy import save

from tests.cli.conftest import tritter  # noqa: F401
from tests.conftest import optimized
from tests.docs.blocks import Command, blocks, commands, pages
from tests.hub.conftest import _server, hub  # noqa: F401
from tests.tprog.files import random_arrays

BLOCKS = [block for page in pages() for block in blocks(page)]
SIZES = {
    "test": (8, 2, 4, 4, 16),
    "125M": (24, 3, 12, 12, 96),
    "3B": (40, 3, 20, 4, 108),
    "7B": (64, 4, 32, 8, 172),
}
"""What the named sizes mean in these tests: heads and ratios are theirs, width and depth are not."""

LONG = ("analyze", "eval", "fisher", "train")
"""Sub-commands that train or measure; what follows them is run in the slow tests."""

NOT_RUN = {
    ".* gs://": "needs a bucket: tests/cli/test_bucket.py",
    "JAX_COORDINATOR_ADDRESS": "waits for other processes: tests/train/test_processes.py",
    "gcloud": "needs an account",
    "pip": "tests/packaging installs every extra",
    "python -m examples.": "minutes: tests/examples runs them in small",
    "python -m pytest": "this",
    "python -m tpu_configs.": "minutes of the compiler",
    "python examples/": "minutes: tests/examples runs them in small",
    "python3.11 -m venv": ".ci/run does",
    "tritter demo": "minutes: tests/packaging runs it in small",
    "tritter tpu": "minutes of the compiler: tests/aot",
    "tritter train --config run.toml --distributed": "waits for other processes: tests/train/test_processes.py",
}
"""Why some commands are not run, by a pattern of what they begin with."""


def reason(command: Command) -> str | None:
    """Why a command is not run."""
    return next((why for start, why in NOT_RUN.items() if re.match(start, command.text)), None)


def ran(page: str) -> list[Command]:
    """The commands of a page that are run."""
    shown = [block for block in BLOCKS if (block.page, block.language) == (page, "sh")]
    return [command for block in shown for command in commands(block) if reason(command) is None]


@pytest.fixture
def reader(tritter, hub, monkeypatch, tmp_path, tmp_path_factory):  # noqa: F811
    """A directory with what the pages take for granted: a model from elsewhere, the same on the Hub, and texts."""
    for name, size in SIZES.items():
        monkeypatch.setitem(tprog.sizes.SIZES, name, size)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    config = replace(tprog.sizes.named_size("3B"), vocab_size=320)
    save(tmp_path / "elsewhere-3B-0.tprog", random_arrays(config), config)
    export_directory(tmp_path / "elsewhere-3B-0.tprog", tmp_path / "Llama-3.2-3B")
    assert tritter("push", "elsewhere-3B-0.tprog", "org/model").code == 0
    shutil.rmtree(tmp_path / "elsewhere-3B-0.tprog")
    for name in ("known", "new", "notes"):
        (tmp_path / name).mkdir()
        for number in range(300):
            (tmp_path / name / f"{number}.md").write_text(f"{name}: {number} " * (60 + number))
    return tritter


def run(command: Command, tritter) -> None:  # noqa: F811
    """Run one command; fails with what it said."""
    assert command.words[0] == "tritter", f"{command.block}: nobody knows how to run {command.words[0]}"
    outcome = tritter(*command.words[1:])
    assert outcome.code == 0, f"{command.block}: {' '.join(command.words)}\n{outcome.out}{outcome.err}"


PAGES = sorted({block.page for block in BLOCKS if ran(block.page)})


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_until_one_takes_long(page, reader):
    for command in itertools.takewhile(lambda command: command.words[1] not in LONG, ran(page)):
        run(command, reader)


@pytest.fixture
def _as_users_have_it(monkeypatch):
    """One device, and programs that are optimized: these run for longer than compiling takes."""
    only = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: only)
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", not optimized)
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.usefixtures("_as_users_have_it")
@pytest.mark.parametrize("page", PAGES)
def test_all_commands_of_a_page_run_one_after_the_other(page, reader, tmp_path):
    for block in (block for block in BLOCKS if block.page == page and block.language == "toml"):
        (tmp_path / "run.toml").write_text(block.text)
    for command in ran(page):
        run(command, reader)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_a_block_of_python_runs(block, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})


def test_what_is_not_run_is_shown_somewhere():
    shown = [command.text for block in BLOCKS if block.language == "sh" for command in commands(block)]
    assert [start for start in NOT_RUN if not any(re.match(start, text) for text in shown)] == []
