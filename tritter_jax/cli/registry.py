"""How every sub-command is registered: the options, the help and the progress that all of them have stand here."""

import functools
import inspect
import math
import textwrap
from collections.abc import Callable
from copy import copy
from typing import Annotated, Any, get_args

import typer
from rich.markup import escape
from tprog import UsageError

from tritter_jax.cli.output import Manner, manner
from tritter_jax.cli.progress import watched
from tritter_jax.cli.speaking import speaking

_OUTPUT = "Output"
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output.", rich_help_panel=_OUTPUT)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print nothing but the result and errors.", rich_help_panel=_OUTPUT)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Also print versions, log records, time, memory, and the traceback of an error.",
        rich_help_panel=_OUTPUT,
    ),
]
_COMMON = {"as_json": Json, "quiet": Quiet, "verbose": Verbose}
_EXAMPLES = ("Example:", "Examples:")

Function = Callable[..., None]


def new_app(**settings: Any) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


def command(app: typer.Typer, name: str, *, panel: str | None = None) -> Callable[[Function], Function]:
    """Register a function as a sub-command, with the options that all of them have.

    Its docstring is the help; what follows `Example:` in it, a command a line, is set apart below the options.

    Args:
        app: the group it belongs to.
        name: what it is called.
        panel: heading in the list of commands.
    """

    def register(function: Function) -> Function:
        @functools.wraps(function)
        def run(*, as_json: bool, quiet: bool, verbose: bool, **arguments: Any) -> None:
            choose_manner(as_json=as_json, quiet=quiet, verbose=verbose)
            _require_finite(arguments)
            with speaking(), watched(name):
                function(**arguments)

        signature = inspect.signature(function)
        own = [each.replace(annotation=_literal(each.annotation)) for each in signature.parameters.values()]
        common = [
            inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
            for each, annotation in _COMMON.items()
        ]
        run.__signature__ = signature.replace(parameters=[*own, *common])  # pyright: ignore[reportAttributeAccessIssue]
        text, examples = described(function)
        epilog = "\n".join(["Examples:" if len(examples) > 1 else "Example:", *examples]) if examples else None
        app.command(name, help=escape(text), epilog=epilog and escape(epilog), rich_help_panel=panel)(run)
        return function

    return register


def _require_finite(arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(
                f"--{name.replace('_', '-')}", expected="a finite number", got=value, remedy="Give another number."
            )


def choose_manner(*, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
    """What was asked for before the sub-command's name holds as well as what was asked for behind it."""
    asked = manner.get()
    manner.set(Manner(json=asked.json or as_json, quiet=asked.quiet or quiet, verbose=asked.verbose or verbose))


def described(function: Function) -> tuple[str, list[str]]:
    """A command's help and its examples.

    Example:
        >>> def f(): "Do it." "\\n\\nExample: tritter f"
        >>> described(f)
        ('Do it.', ['tritter f'])
    """
    text = inspect.getdoc(function) or ""
    for word in _EXAMPLES:
        text, found, examples = text.partition(f"\n{word}")
        if found:
            lines = textwrap.dedent(examples).strip().splitlines()
            return text.strip(), [line.strip() for line in lines if line.strip()]
    return text.strip(), []


def _literal(annotation: Any) -> Any:
    """The same annotation, with brackets in its help meant as brackets and not as markup."""
    base, *notes = get_args(annotation) if hasattr(annotation, "__metadata__") else (annotation,)
    for at, note in enumerate(notes):
        if text := getattr(note, "help", None):
            notes[at] = copy(note)
            notes[at].help = escape(text)
    return Annotated[base, *notes] if notes else annotation
