"""The command `tritter`. Every sub-command is a module beside this one; heavy imports wait inside its function."""

import importlib.util
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from tprog import TritterError, UsageError, VerificationError
from typer.core import TyperGroup

from tritter_jax import __version__
from tritter_jax.cli import (
    analyze,
    card,
    completion,
    convert,
    demo,
    diff,
    evaluate,
    expand,
    fisher,
    guide,
    hub,
    info,
    init,
    plan,
    recommend,
    report,
    sizes,
    tokenizer,
    tpu,
    train,
    verify,
)
from tritter_jax.cli.output import Manner, errors, manner, print_document_of, print_error
from tritter_jax.cli.registry import Function, Json, Quiet, Verbose, choose_manner, command, new_app
from tritter_jax.cli.streams import discard, open_streams

COMMANDS: dict[str, dict[str, Function]] = {
    "Grow": {
        "expand": expand.expand,
        "plan": plan.plan,
        "analyze": analyze.analyze,
        "recommend": recommend.recommend,
    },
    "Train and try": {
        "train": train.train,
        "fisher": fisher.fisher,
        "eval": evaluate.eval_,
        "generate": evaluate.generate,
    },
    "Look": {
        "info": info.info,
        "report": report.report,
        "verify": verify.verify,
        "diff": diff.diff,
        "sizes": sizes.sizes,
    },
    "Bring in, hand on": {
        "init": init.init,
        "import": convert.import_,
        "export": convert.export,
        "pull": hub.pull,
        "push": hub.push,
        "card": card.card,
    },
    "More": {"demo": demo.demo, "completion": completion.completion},
}
"""Every sub-command, by the heading that it is listed under; the groups `tokenizer` and `tpu` come on top."""


class _Program(TyperGroup):
    """The program itself, which alone shows what to do next."""

    def invoke(self, ctx: Any) -> Any:
        """Run what was asked for."""
        done = super().invoke(ctx)
        if ctx.invoked_subcommand is None:
            guide.show_guide()
        return done


app = new_app(cls=_Program, invoke_without_command=True)
for _panel, _commands in COMMANDS.items():
    for _name, _function in _commands.items():
        command(app, _name, panel=_panel)(_function)
app.add_typer(tokenizer.app, name="tokenizer", rich_help_panel="Train and try")
app.add_typer(tpu.app, name="tpu", rich_help_panel="Train and try")

_UNKEPT = 3
"""Exit code where a result did not meet its guarantee and was not written; 1 is every other mistake."""


def _version(asked: bool) -> bool:
    if asked:
        sys.stdout.write(f"tritter-jax {__version__}\n")
        raise typer.Exit
    return asked


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Grow a language model instead of retraining it. Alone, it shows what to do next.

    Exit codes: 0 done, 1 a mistake that the message explains, 2 wrong usage, 3 a result that did not meet its
    guarantee and was not written, 4 `tritter diff` found a difference, 130 and 143 interrupted.
    """
    choose_manner(as_json=as_json, quiet=quiet, verbose=verbose)


def _terminate(number: int, frame: object) -> NoReturn:
    """SIGTERM unwinds like an error, so that what is half-written is removed."""
    sys.exit(128 + number)


def _only_a_processor() -> bool:
    """Whether the TPU compiler is installed and there is no device it, or a GPU, would show: it complains loudly."""
    devices = Path("/dev")
    shown = any(any(devices.glob(pattern)) for pattern in ("accel*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd"))
    return importlib.util.find_spec("libtpu") is not None and not shown


def _told(error: TritterError) -> int:
    """Print an error; the exit code that belongs to it."""
    try:
        print_error(error)
        sys.stdout.flush()
    except OSError:  # standard output is full or gone; what is wrong was told on standard error
        discard(1)
    if manner.get().verbose:
        errors().print(traceback.format_exc())
    return _UNKEPT if isinstance(error, VerificationError) else 1


def _told_usage(stop: SystemExit) -> None:
    """Wrong usage, which typer has explained to a person, told to a program as well where one asks."""
    error: Any = stop.__context__
    if hasattr(error, "format_message") and (manner.get().json or "--json" in sys.argv):
        where = error.ctx.command_path if getattr(error, "ctx", None) else completion.PROGRAM
        expected, remedy = "what its --help lists", f"See `{where} --help`."
        print_document_of(UsageError(where, expected=expected, got=error.format_message(), remedy=remedy))


def main() -> None:
    """Run the command line; a user's mistake is one paragraph and a non-zero exit code, never a traceback."""
    open_streams()
    # The accelerator's own start-up messages are not what the user asked for.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if _only_a_processor():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if completion.VARIABLE in os.environ:
        completion.prepare()
    signal.signal(signal.SIGTERM, _terminate)
    manner.set(Manner())
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        discard(1, 2)
        sys.exit(1)
    except TritterError as error:
        sys.exit(_told(error))
    except OSError as error:
        place, got = error.filename or "the system", error.strerror or str(error)
        remedy = "Check that it is there, that you may use it, and that the disk is not full."
        sys.exit(_told(UsageError(place, expected="a place that can be read and written", got=got, remedy=remedy)))
    except SystemExit as stop:
        if stop.code in (130, 143):
            errors().print("interrupted; nothing half-written is left", style="red")
        _told_usage(stop)
        raise
