"""The blocks and commands that the pages show."""

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.docs.test_site import ROOT, SITE

LANGUAGES = ("", "json", "python", "sh", "toml")
PROGRAMS = ("gcloud", "mkdocs", "pip", "pytest", "python", "python3.11", "tritter")
"""What a line of commands begins with."""
_SETTING = re.compile("[A-Z_]+=")


@dataclass(frozen=True)
class Block:
    """A block of code, or code within a line."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a block: its words, without the folder of its program, and what is set in its environment."""

    block: Block
    words: tuple[str, ...]
    environment: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.block.page}: {self.text}"

    @property
    def text(self) -> str:
        """The command, blanks made one."""
        return " ".join((*self.environment, *self.words))


def pages() -> list[Path]:
    """Every page of the site that lies in a folder."""
    return [path for path in SITE["pages"]() if path.suffix == ".md"]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, fenced or indented."""
    name = page.relative_to(ROOT).as_posix()
    return [
        Block(name, token.map[0] + 1, token.info.strip() or _guess(token.content), token.content)
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8"))
        if token.type in ("fence", "code_block")
    ]


def inline(page: Path) -> list[Block]:
    """Commands within a line of text."""
    name = page.relative_to(ROOT).as_posix()
    return [
        Block(name, token.map[0] + 1, "sh", " ".join(child.content.split()))
        for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
        for child in token.children or ()
        if child.type == "code_inline" and _program(child.content) and " " in child.content.strip()
    ]


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block."""
    waiting = ""
    for line in block.text.splitlines():
        if line.endswith("\\"):
            waiting += line[:-1]
            continue
        waiting += line + "\n"
        try:
            words = shlex.split(waiting, comments=True)
        except ValueError:  # a quotation that goes on in the next line
            continue
        waiting = ""
        for both, group in itertools.groupby(words, "&&".__eq__):
            command = [] if both else list(group)
            first = next((place for place, word in enumerate(command) if not _SETTING.match(word)), None)
            if first is not None:
                program = command[first].rpartition("/")[2]
                yield Command(block, (program, *command[first + 1 :]), tuple(command[:first]))
    assert not waiting, f"{block}: a quotation has no end"


def _program(text: str) -> str | None:
    """The program that a line calls."""
    first = text.split()[:1]
    return next((program for word in first if (program := word.rpartition("/")[2]) in PROGRAMS), None)


def _guess(text: str) -> str:
    """An unnamed block is one of commands if all its lines are."""
    return "sh" if text.strip() and all(map(_program, text.strip().splitlines())) else ""
