"""Each program that users load a model with, in an environment of its own: it says what our own code says.

Slow; `python -m pytest -m slow tests/clients` makes the environments from the package index that pip is set up with.
"""

import json
import shutil

import numpy as np
import pytest
import tprog.flax
from tprog.gguf import export_gguf
from tprog.huggingface import export_directory, import_directory
from tprog.reader import open_checkpoint
from tprog.verify import verify

from tests.clients.conftest import LENGTH, PROMPT, TEMPLATE
from tests.clients.environments import CLIENTS, ROOT, run
from tests.clients.programs import PROGRAMS
from tests.support import logits

pytestmark = pytest.mark.slow
HERE = ROOT / "tests" / "clients"
TOLERANCE = 1e-4
"""Of the logits, which are up to some hundreds here, against the largest."""


@pytest.fixture
def answer(clients, tmp_path):
    """Run a client's program on a model; gives what it found, read from its last line."""

    def ask(name: str, model: object) -> dict:
        program = (HERE / "programs.py", name, model, PROMPT, LENGTH)
        printed = run(clients.python(name), "-P", *program, directory=tmp_path)
        return json.loads(printed.splitlines()[-1])

    return ask


def test_every_client_has_a_program_and_an_environment():
    assert PROGRAMS.keys() == CLIENTS.keys()


def test_transformers(answer, grown):
    assert answer("transformers", grown.path) == {"text": grown.text, "ids": grown.ids, "chat": TEMPLATE}


def test_lm_eval(answer, grown):
    found = answer("lm-eval", grown.path)["bits_per_byte"]
    assert found == pytest.approx(grown.bits_per_byte, rel=TOLERANCE)


def test_peft(answer, grown, tmp_path):
    found = answer("peft", grown.path)
    largest = float(np.abs(grown.logits).max())
    assert found["unchanged"] == 0
    assert found["kept"] <= TOLERANCE * largest
    assert found["losses"][-1] < found["losses"][0]
    merged = import_directory(tmp_path / "merged", tmp_path / "merged.tprog")
    assert verify(merged).ok
    ours = logits(tprog.flax.load(merged), np.asarray([grown.ids], np.int32), open_checkpoint(merged).config)[0]
    assert np.abs(np.asarray(ours) - np.asarray(found["logits"])).max() <= TOLERANCE * largest


def test_ctranslate2(answer, grown):
    assert answer("ctranslate2", grown.path)["made"] == grown.made


def test_mlx_lm_with_the_plain_directory(answer, grown, tmp_path):
    """It globs `model*.safetensors`, so that a `.tprog` has to be exported for it."""
    assert answer("mlx-lm", export_directory(grown.path, tmp_path / "hf"))["made"] == grown.made


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_llama_cpp_with_the_gguf_file(clients, grown, tmp_path):
    file = export_gguf(grown.path, tmp_path / "grown.gguf", type_="f32").path
    program = (shutil.which("node"), HERE / "llama_cpp.mjs", file, PROMPT, LENGTH)
    found = json.loads(run(*program, directory=clients.llama_cpp()).splitlines()[-1])
    assert (found["ids"], found["made"]) == (grown.ids, grown.made)
