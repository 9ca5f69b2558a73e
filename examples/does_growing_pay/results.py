"""Finished runs on disk, a file each: what is there is not run again."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tprog import UsageError
from tprog.jsonio import read_json

from examples.does_growing_pay.settings import Settings
from examples.does_growing_pay.training import Result, Trainer, fingerprint
from examples.does_growing_pay.variants import Variant

Results = dict[str, list[Result]]
"""The finished runs of each variant, by seed."""


def place(directory: Path, variant: Variant, seed: int) -> Path:
    """The file of a run."""
    return directory / f"{re.sub(r'[^a-z0-9.]+', '-', variant.name.lower())}.seed-{seed}.json"


def read(directory: Path, variants: Sequence[Variant], settings: Settings) -> Results:
    """The finished runs in a directory.

    Raises:
        UsageError: some were made with other settings.
        FormatError: a file is broken.
    """
    found: Results = {}
    for variant in variants:
        for path in (place(directory, variant, seed) for seed in settings.seeds):
            if not path.is_file():
                continue
            result = read_json(path)
            if result.get("settings") != fingerprint(settings):
                raise UsageError(
                    path, expected=f"a run with {fingerprint(settings)}", got=result.get("settings"),
                    remedy="Choose another directory (--out), or remove that file.",
                )  # fmt: skip
            found.setdefault(variant.name, []).append(result)
    return found


def complete(
    directory: Path, variants: Sequence[Variant], settings: Settings, trainer: Callable[[], Trainer],
    progress: Callable[[str], None],
) -> Results:  # fmt: skip
    """Run what is not finished yet, seed by seed, and give all results.

    Args:
        directory: where results are kept.
        variants: what to run.
        settings: the seeds, and what all runs have in common.
        trainer: makes what trains; not called where everything is finished.
        progress: told of every finished run.

    Raises:
        UsageError: as `read`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    read(directory, variants, settings)
    made: Trainer | None = None
    for seed in settings.seeds:
        # Those that begin alike one after the other, and shorter before longer, so that their beginning is shared.
        waiting = [variant for variant in variants if not place(directory, variant, seed).is_file()]
        for variant in sorted(waiting, key=lambda variant: (str(variant.small), not variant.grows, variant.flops)):
            made = made or trainer()
            result = made.run(variant, seed)
            _write(place(directory, variant, seed), result)
            progress(f"seed {seed}, {variant.name}: {result['loss']:.4f} nats, {result['flops']:.3e} FLOPs")
        if made:
            made.forget()
    return read(directory, variants, settings)


def _write(path: Path, result: Result) -> None:
    """A file that is there is whole: a run that is killed while it writes is run again."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result) + "\n", encoding="utf-8")
    temporary.replace(path)
