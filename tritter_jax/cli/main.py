"""The command `tritter`. Every sub-command is a module beside this one; heavy imports wait inside its function."""

import os
import sys

import typer
from tprog import TritterError, VerificationError

from tritter_jax.cli import convert, demo, diff, evaluate, expand, info, init, plan, sizes, tokenizer, train, verify
from tritter_jax.cli.output import err, print_error

app = typer.Typer(
    help="Grow a language model instead of retraining it.",
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
app.command("verify")(verify.verify)
app.command("diff")(diff.diff)
app.command("sizes")(sizes.sizes)
app.command("train")(train.train)
app.command("eval")(evaluate.eval_)
app.command("generate")(evaluate.generate)
app.command("demo")(demo.demo)
app.add_typer(tokenizer.app, name="tokenizer")

_UNKEPT = 3
"""Exit code where a result did not meet its guarantee and was not written; 1 is every other mistake."""


def main() -> None:
    """Run the command line; a user's mistake is one paragraph and a non-zero exit code, never a traceback."""
    # The accelerator's own start-up messages are not what the user asked for.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        app()
    except TritterError as error:
        print_error(error)
        sys.exit(_UNKEPT if isinstance(error, VerificationError) else 1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        err().print(f"[bold red]error:[/bold red] {error.filename or 'the system'}: {error.strerror or error}")
        sys.exit(1)
