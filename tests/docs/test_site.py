"""What the site is made of: all pages, and all that is public; `mkdocs build --strict` in .ci/run builds it."""

import importlib
import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[2]
SITE = runpy.run_path(str(ROOT / ".ci" / "site.py"))


def test_every_page_of_the_repository_is_in_it():
    # What lies beside tests speaks to those who work on them.
    listed = subprocess.run(
        ["git", "ls-files", "*.md", ":!tests"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {ROOT / name for name in listed.stdout.split()} <= set(SITE["pages"]())


@pytest.mark.parametrize("name", [name for name in SITE["reference"]() if SITE["is_package"](name)])
def test_a_package_s_page_has_its_public_names(name):
    package = importlib.import_module(name)
    shown = SITE["exported"](name)
    assert [path.rpartition(".")[2] for path in shown] == list(getattr(package, "__all__", []))
    for path in shown:
        assert f"::: {path}\n" in SITE["text"](name)
        module, _, own = path.rpartition(".")
        assert getattr(importlib.import_module(module), own) is getattr(package, own)


def test_every_public_module_has_a_page_or_is_shown_by_its_package():
    pages = SITE["reference"]()
    shown = {path.rpartition(".")[0] for package in pages for path in SITE["exported"](package)}
    for root, directory in SITE["PACKAGES"].items():
        for path in directory.rglob("[!_]*.py"):
            name = ".".join((root, *path.relative_to(directory).with_suffix("").parts))
            assert name in pages or name in shown or name.startswith(SITE["COMMANDS"] + "."), name


def test_every_command_is_there_with_its_options():
    text = SITE["commands_text"]()
    for words in ("## tritter expand\n", "## tritter tpu check\n", "| `--resume` |"):
        assert words in text


def test_a_site_without_a_public_name_is_refused(tmp_path):
    config = SimpleNamespace(site_dir=str(tmp_path))
    for name in SITE["reference"]():
        page = (tmp_path / SITE["page"](name)).with_suffix(".html")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("".join(f'<h2 id="{path}">' for path in SITE["exported"](name)))
    SITE["on_post_build"](config)
    growth = tmp_path / "reference" / "tritter_jax" / "growth" / "index.html"
    growth.write_text(growth.read_text().replace('id="tritter_jax.growth.planning.make_plan"', ""))
    with pytest.raises(PluginError, match=r"not in the reference: tritter_jax\.growth\.planning\.make_plan"):
        SITE["on_post_build"](config)
