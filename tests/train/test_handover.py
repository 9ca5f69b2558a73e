"""A run handed from JAX to PyTorch and back has the losses of one that never moved."""

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "01_handover.py"


def test_the_curve_is_that_of_either_framework_alone():
    assert runpy.run_path(str(EXAMPLE))["main"]() < 1e-4


def test_without_the_optimizer_state_the_curves_part():
    example = runpy.run_path(str(EXAMPLE))
    scope = example["main"].__globals__
    scope["load_optimizer"] = lambda source, state: state
    assert example["main"]() > 1e-3
