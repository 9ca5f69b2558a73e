"""tritter completion: a script that completes commands, options, sizes and strategies at the prompt."""

import os
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from tprog import SIZES, UsageError

from tritter_jax.cli.output import emit

PROGRAM = "tritter"
VARIABLE = "_TRITTER_COMPLETE"


class Shell(StrEnum):
    """The shells that a script is made for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(
    shell: Annotated[Shell | None, typer.Argument(help="The shell; yours, as SHELL has it, without.")] = None,
) -> None:
    """Print a script that completes sub-commands, options, sizes and strategies; it takes effect in the next shell.

    The script's directory must be there: `mkdir -p` makes it. For zsh it must also be in fpath: put the line
    `fpath=(~/.zfunc $fpath)` into ~/.zshrc, before the one that runs compinit.

    Examples:
        tritter completion bash > ~/.local/share/bash-completion/completions/tritter
        tritter completion zsh > ~/.zfunc/_tritter
        tritter completion fish > ~/.config/fish/completions/tritter.fish
    """
    # Typer offers both of what is taken from here only through options that also write into a shell's start-up files.
    from typer import completion as typers

    chosen = _own_shell() if shell is None else shell
    script = typers.get_completion_script(  # pyright: ignore[reportPrivateImportUsage]
        prog_name=PROGRAM, complete_var=VARIABLE, shell=chosen.value
    )
    emit(
        {"shell": chosen.value, "script": script},
        lambda console: console.print(script, markup=False, soft_wrap=True),
    )


def prepare() -> None:
    """Make ready to answer what such a script asks, as typer does where its own options for it are switched on."""
    from typer import completion as typers

    typers.completion_init()  # pyright: ignore[reportPrivateImportUsage]


def _own_shell() -> Shell:
    name = Path(os.environ.get("SHELL", "")).name
    known = [each.value for each in Shell]
    if name not in known:
        raise UsageError.unknown("SHELL", name, known, remedy="Name one: tritter completion bash.")
    return Shell(name)


def sizes(incomplete: str) -> list[str]:
    """Named sizes that begin so.

    Example:
        >>> sizes("12")
        ['125M']
    """
    return [name for name in SIZES if name.lower().startswith(incomplete.lower())]


def sources(incomplete: str) -> Iterator[str]:
    """Checkpoints and named sizes that begin so."""
    yield from (path.name for path in sorted(Path().glob("*.tprog")) if path.name.startswith(incomplete))
    yield from sizes(incomplete)


def strategies(option: str) -> Callable[[str], list[str]]:
    """A function that completes the names of an option's strategies."""

    def names(incomplete: str) -> list[str]:
        from tritter_jax import growth

        tables = {
            "depth": growth.DEPTH, "positions": growth.POSITIONS, "width": growth.WIDTH, "split": growth.SPLITS,
            "optimizer": growth.MOMENTS, "fisher": growth.FISHER,
        }  # fmt: skip
        return [name for name in tables[option] if name.startswith(incomplete)]

    return names
