"""Depth against mergekit, whose slices users know: the same tensors, bit for bit.

mergekit pins older libraries, so it lives in an environment of its own. With it there, this runs:

    python -m venv /tmp/mergekit && /tmp/mergekit/bin/pip install mergekit==0.1.5
    TRITTER_MERGEKIT=/tmp/mergekit/bin/mergekit-yaml python -m pytest tests/growth/test_mergekit.py
"""

import json
import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import tprog.flax
from tprog.dtypes import same_bits
from tprog.reader import open_checkpoint

from tests.support import odd_config, random_params
from tritter_jax.growth import make_plan
from tritter_jax.growth.stream import grown_tensors

MERGEKIT = os.environ.get("TRITTER_MERGEKIT") or shutil.which("mergekit-yaml")
SILENT = {"scale": [{"filter": "o_proj", "value": 0.0}, {"filter": "down_proj", "value": 0.0}, {"value": 1.0}]}

pytestmark = pytest.mark.skipif(not MERGEKIT, reason="mergekit is not installed; the module says how to run this")


def solar(path: str) -> list[dict]:
    """SOLAR's two slices, 8 layers to 12: the first six and the last six."""
    return [{"sources": [{"model": path, "layer_range": span}]} for span in ([0, 6], [2, 8])]


def llama_pro(path: str) -> list[dict]:
    """LLaMA Pro's rule, 8 layers to 12: after every second one a copy of it that adds nothing."""
    slices = []
    for end in (2, 4, 6, 8):
        slices.append({"sources": [{"model": path, "layer_range": [end - 2, end]}]})
        slices.append({"sources": [{"model": path, "layer_range": [end - 1, end], "parameters": SILENT}]})
    return slices


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("depth", "positions", "slices"), [("solar", "auto", solar), ("identity", "uniform", llama_pro)]
)
def test_tensors_are_those_that_mergekit_makes_from_the_same_slices(depth, positions, slices, dtype, tmp_path):
    config = odd_config("llama", num_layers=8, head_dim=10, dtype=dtype)
    path = tprog.flax.save(tmp_path / "source.tprog", random_params(config), config)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(json.dumps({"merge_method": "passthrough", "dtype": dtype, "slices": slices(str(path))}))
    command = [MERGEKIT, recipe, tmp_path / "theirs", "--no-copy-tokenizer", "--no-cuda"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]

    theirs = open_checkpoint(tmp_path / "theirs")
    plan = make_plan(config, replace(config, num_layers=12), depth=depth, positions=positions)
    ours = grown_tensors(open_checkpoint(path), plan)
    assert ours.specs == theirs.specs
    for name in ours.specs:
        np.testing.assert_array_equal(same_bits(ours.tensor(name)), same_bits(theirs.tensor(name)), err_msg=name)
