"""What mkdocs needs of us: the pages from all folders, and a reference of all that is public.

A package's page documents the names of its `__all__`. A module none of whose names is among them, such as
`tprog.reader`, is public by itself and has a page of its own; the command line has one for all commands.
"""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FOLDERS = ("examples", "interop", "tpu_configs", "tritter_jax")
"""Where pages lie, beside the top level."""
PACKAGES = {"tprog": ROOT / "interop" / "tprog", "tritter_jax": ROOT / "tritter_jax"}
COMMANDS = "tritter_jax.cli"
"""Documented by its commands instead of its functions."""

STYLE = ".md-grid { max-width: 76rem; }\n"
"""As wide as our lines of code."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference into the navigation."""
    tree: dict[str, list[Any]] = {}
    for name in reference():
        package = name if is_package(name) else name.rpartition(".")[0]
        tree.setdefault(package, []).append(page(name) if name == package else {name: page(name)})
    assert config.nav is not None
    packages = [{name: inside} for name, inside in tree.items()]
    config.nav.insert(-1, {"Reference": ["reference/commands.md", *packages]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All pages and pictures of the repository instead of those of one folder, and the reference."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    ours = [File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)) for path in pages()]
    made = [File.generated(config, page(name), content=text(name)) for name in reference()]
    made.append(File.generated(config, "reference/commands.md", content=commands_text()))
    made.append(File.generated(config, "site.css", content=STYLE))
    return Files([*theme, *ours, *made])


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site in which a public name is missing."""
    missing = []
    for package in reference():
        if names := exported(package):
            shown = (Path(config.site_dir) / page(package)).with_suffix(".html").read_text(encoding="utf-8")
            missing += [name for name in names if f'id="{name}"' not in shown]
    if missing:
        raise PluginError(f"not in the reference: {', '.join(missing)}")


def pages() -> Iterable[Path]:
    """The pages, and what they show or link to."""
    yield from sorted(ROOT.glob("*.md"))
    for folder in FOLDERS:
        yield from sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".png", ".json"))


def reference() -> list[str]:
    """The packages and modules that have a page, each package before its modules."""
    found = []
    for root, directory in PACKAGES.items():
        for init in sorted(directory.rglob("__init__.py")):
            package = ".".join((root, *init.parent.relative_to(directory).parts))
            if package == COMMANDS:
                continue
            modules = sorted(path.stem for path in init.parent.glob("[!_]*.py"))
            shown = {name.rpartition(".")[0] for name in exported(package)}
            found += [package, *(name for stem in modules if (name := f"{package}.{stem}") not in shown)]
    return found


def source(name: str) -> Path:
    """The file of a package or module."""
    root, *rest = name.split(".")
    path = PACKAGES[root].joinpath(*rest)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def is_package(name: str) -> bool:
    """Whether it is no module."""
    return source(name).name == "__init__.py"


def exported(name: str) -> list[str]:
    """The names in `__all__`, each with the module that it comes from."""
    body = ast.parse(source(name).read_text(encoding="utf-8")).body
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    origin = {alias.name: f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    public = [
        node.value for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return [origin.get(each, f"{name}.{each}") for value in public for each in ast.literal_eval(value)]


def page(name: str) -> str:
    """Where in the site a package or module is documented."""
    path = f"reference/{name.replace('.', '/')}"
    return f"{path}/index.md" if is_package(name) else f"{path}.md"


def text(name: str) -> str:
    """The page, before mkdocstrings fills it."""
    lines = [
        f"# {name}",
        "",
        f"::: {name}",
        "    options:",
        "      show_root_heading: false",
        "      show_root_toc_entry: false",
    ]
    if is_package(name):
        lines += ["      members: false", *(f"\n::: {each}" for each in exported(name))]
    return "\n".join((*lines, ""))


def commands_text() -> str:
    """Every command with its options, as `--help` has them."""
    from typer.main import get_command

    from tritter_jax.cli.main import app

    lines = ["# Commands", "", "`tritter COMMAND --help` says the same.", ""]
    for words, command in _commands("tritter", get_command(app)):
        lines += [f"## {words}", "", command.help or "", ""]
        if examples := (command.epilog or "").partition("\n")[2]:
            lines += ["```sh", examples, "```", ""]
        lines += ["| | | default |", "| --- | --- | --- |", *map(_parameter, command.params), ""]
    return "\n".join(lines)


def _parameter(parameter: Any) -> str:
    """A row of a command's table."""
    names = [f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts)]
    if parameter.param_type_name == "argument":
        names = [f"`{parameter.metavar or parameter.name.upper()}`"]
    about = " ".join((parameter.help or "").split()).replace("|", "\\|")
    default = "" if parameter.default in (None, False) else f"`{parameter.default}`"
    return f"| {' '.join(names)} | {about} | {default} |"


def _commands(words: str, command: Any) -> Iterable[tuple[str, Any]]:
    inside = getattr(command, "commands", None)
    if inside is None:
        yield words, command
        return
    for name, each in sorted(inside.items()):
        yield from _commands(f"{words} {name}", each)
