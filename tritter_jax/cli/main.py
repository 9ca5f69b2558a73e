"""The command `tritter`. Every sub-command is a module beside this one; heavy imports wait inside its function."""

import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from tprog import TritterError, VerificationError

from tritter_jax import __version__
from tritter_jax.cli import (
    analyze,
    card,
    convert,
    demo,
    diff,
    evaluate,
    expand,
    fisher,
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
from tritter_jax.cli.output import err, print_error

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("expand")(expand.expand)
app.command("plan")(plan.plan)
app.command("info")(info.info)
app.command("init")(init.init)
app.command("import")(convert.import_)
app.command("export")(convert.export)
app.command("push")(hub.push)
app.command("pull")(hub.pull)
app.command("card")(card.card)
app.command("verify")(verify.verify)
app.command("diff")(diff.diff)
app.command("sizes")(sizes.sizes)
app.command("train")(train.train)
app.command("eval")(evaluate.eval_)
app.command("generate")(evaluate.generate)
app.command("fisher")(fisher.fisher)
app.command("analyze")(analyze.analyze)
app.command("recommend")(recommend.recommend)
app.command("report")(report.report)
app.command("demo")(demo.demo)
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(tpu.app, name="tpu")

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
) -> None:
    """Grow a language model instead of retraining it.

    Exit codes: 0 done, 1 a mistake that the message explains, 2 wrong usage, 3 a result that did not meet its
    guarantee and was not written, 4 `tritter diff` found a difference, 130 and 143 interrupted.
    """


def _terminate(number: int, frame: object) -> NoReturn:
    """SIGTERM unwinds like an error, so that what is half-written is removed."""
    sys.exit(128 + number)


def _only_a_processor() -> bool:
    """Whether the TPU compiler is installed and there is no device it, or a GPU, would show: it complains loudly."""
    devices = Path("/dev")
    shown = any(any(devices.glob(pattern)) for pattern in ("accel*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd"))
    return importlib.util.find_spec("libtpu") is not None and not shown


def main() -> None:
    """Run the command line; a user's mistake is one paragraph and a non-zero exit code, never a traceback."""
    # The accelerator's own start-up messages are not what the user asked for.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if _only_a_processor():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except TritterError as error:
        print_error(error)
        sys.exit(_UNKEPT if isinstance(error, VerificationError) else 1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        place = error.filename or "the system"
        err().print(f"error: {place}: {error.strerror or error}", style="red", markup=False)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code in (130, 143):
            err().print("interrupted; nothing half-written is left", style="red")
        raise
