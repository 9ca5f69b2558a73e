"""What the pages tell to type is understood: by the command line's own parser, or by the script's."""

import argparse
import re
import runpy
import sys
import tomllib

import pytest
from typer.main import get_command

from tests.docs.blocks import LANGUAGES, ROOT, Block, Command, blocks, commands, inline, pages
from tritter_jax.cli.main import app

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
BLOCKS = [block for page in pages() for block in blocks(page)]
SHOWN = [command for block in BLOCKS if block.language == "sh" for command in commands(block)]
MENTIONED = [command for page in pages() for block in inline(page) for command in commands(block)]


class ParsedError(Exception):
    """A script has parsed its arguments, and is to do no more."""


def sub_command(words: tuple[str, ...]):
    """A sub-command of tritter, and what is left of the words."""
    command, rest = get_command(app), list(words)
    while rest and hasattr(command, "commands"):
        assert rest[0] in command.commands, f"no command {rest[0]}"
        command = command.commands[rest.pop(0)]
    return command, rest


def parse(command: Command) -> None:
    """Give a command to the parser that it has; fails where that refuses it."""
    program, *rest = command.words
    for word in rest:
        if word.startswith("--command="):  # to be typed on another machine
            for inner in commands(Block(command.block.page, command.block.line, "sh", word.partition("=")[2])):
                parse(inner)
    if program == "tritter":
        found, arguments = sub_command(tuple(rest))
        found.make_context(found.name, arguments)
    elif program == "pip":
        for extra in ",".join(re.findall(r"\[(.*?)\]", " ".join(rest))).split(","):
            assert not extra or extra in EXTRAS, f"no extra {extra}"
    elif program.startswith("python") and rest[0] == "-m" and (ROOT / rest[1].partition(".")[0]).is_dir():
        script(rest[1], rest[2:])
    elif program.startswith("python") and not rest[0].startswith("-"):
        script(rest[0], rest[1:])


def script(name: str, arguments: list[str]) -> None:
    """Run a module or file until it has parsed its arguments; one that parses none is not run."""
    path = ROOT / (name if name.endswith(".py") else name.replace(".", "/"))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    if "argparse" not in path.read_text():
        assert not [word for word in arguments if word.startswith("-")]
        return
    understood = argparse.ArgumentParser.parse_args

    def stop(parser, args=None, namespace=None):
        understood(parser, args, namespace)
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ParsedError):
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [name, *arguments])
        if name.endswith(".py"):
            patch.syspath_prepend(path.parent)
        runpy.run_path(str(path), run_name="__main__")


def test_every_block_says_what_it_is():
    assert len(BLOCKS) > 20
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("command", SHOWN, ids=str)
def test_every_command_in_a_block_is_understood(command):
    parse(command)


def test_every_command_in_a_line_has_the_options_it_is_shown_with():
    assert len(MENTIONED) > 20
    for command in MENTIONED:
        program, *rest = command.words
        if program != "tritter":
            parse(command)
            continue
        found, _ = sub_command(tuple(word for word in rest if not word.startswith("-"))[:2])
        known = {option for parameter in found.params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known, str(command)


@pytest.mark.parametrize(
    "text",
    [
        "tritter expand --from 3B --two 7B",
        "tritter train --steps",
        "tritter forget x.tprog",
        "pip install 'tritter-jax[tpus]'",
        "python -m examples.when_to_grow --moment-of-truth 3",
        "python examples/01_handover.py --steps 3",
        "python examples/02_missing.py",
    ],
)
def test_the_control_what_nothing_understands_is_told(text):
    (command,) = commands(Block("page", 1, "sh", text))
    with pytest.raises(BaseException) as refusal:  # of click, of argparse, or an assertion
        parse(command)
    assert not isinstance(refusal.value, ParsedError)
