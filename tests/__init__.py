"""Tests of both packages; `tests.check` is what `--jaxtyping-packages` in pyproject.toml names."""

from tests.typechecker import check

__all__ = ["check"]
