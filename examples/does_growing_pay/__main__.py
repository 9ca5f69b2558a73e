"""Does growing pay?

    python -m examples.does_growing_pay pays [--full] [--out DIR]          small-then-grown against from scratch
    python -m examples.does_growing_pay strategies [--full] [--out DIR]    growth strategies side by side
    python -m examples.does_growing_pay all [--full] [--out DIR]           both, sharing what they have in common

The short form takes minutes and one seed; --full takes three seeds. Every finished run is a file in DIR, and the same
command goes on where it was stopped. At the end DIR holds a table and a plot of each comparison.
"""

import argparse
import sys
from pathlib import Path

from tprog import TritterError

from examples.does_growing_pay.report import write_report
from examples.does_growing_pay.results import complete
from examples.does_growing_pay.settings import FULL, SHORT, Settings
from examples.does_growing_pay.training import Trainer
from examples.does_growing_pay.variants import COMPARISONS
from tritter_jax.data import byte_tokenizer, open_corpus, tokenize


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and write tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=[*COMPARISONS, "all"])
    parser.add_argument("--full", action="store_true", help="three seeds, and runs that are long enough to tell")
    parser.add_argument("--out", type=Path, help="where results go (runs/does_growing_pay/short or .../full)")
    options = parser.parse_args(arguments)
    settings = FULL if options.full else SHORT
    directory = options.out or Path("runs/does_growing_pay") / ("full" if options.full else "short")
    names = list(COMPARISONS) if options.comparison == "all" else [options.comparison]
    variants = list({variant.name: variant for name in names for variant in COMPARISONS[name]}.values())
    try:
        complete(directory, variants, settings, lambda: _trainer(settings), lambda line: print(line, flush=True))
        for name in names:
            print("\n" + write_report(directory, name, settings).read_text(encoding="utf-8"))
    except TritterError as error:
        sys.exit(str(error))


def _trainer(settings: Settings) -> Trainer:
    return Trainer(settings, tokenize(open_corpus("builtin:prose"), byte_tokenizer()))


if __name__ == "__main__":
    main()
