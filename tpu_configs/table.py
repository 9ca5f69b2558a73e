"""Keeps the table in README.md: python -m tpu_configs.table [--keep DIRECTORY] [--write-only] [NAME ...]

Compiles the configurations named, or all, and writes what was found into results.json and the table; the rows of the
others stay. With --keep what was compiled stays in a directory, and is not compiled again for the same settings.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from tritter_jax.aot import check
from tritter_jax.train.config import RunConfig

HERE = Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"


def row(path: Path, found: dict[str, Any] | None) -> str:
    """A configuration's line of the table."""
    settings = RunConfig.load(path)
    mesh, data, machine = settings.mesh, settings.data, settings.machine
    slices = f"{machine.slices} x " if machine.slices > 1 else ""
    cells = [
        f"`{path.stem}`", f"{slices}`{machine.topology}`", f"{mesh.data} x {mesh.fsdp} x {mesh.tensor}",
        f"{data.batch_size} x {data.sequence_length:,}", settings.training.remat,
    ]  # fmt: skip
    if found is None:
        return " | ".join(["", *cells, "not compiled yet", *["-"] * 5, ""]).strip()
    memory, gib = found["memory"], 1 << 30
    cells.append(f"{memory['needed'] / gib:.1f} of {memory['available'] / gib:.1f}")
    if not found["fits"]:
        return " | ".join(["", *cells, "does not fit", *["-"] * 4, ""]).strip()
    line = found["roofline"]
    seconds, use = line["step_seconds"], line["utilisation"]
    received = sum(each["bytes"] for each in found["collectives"])
    worked = use["all_overlapped"] > 0
    cells += [
        f"{found['flops'] / 1e12:,.1f}", f"{found['bytes'] / 1e9:,.0f}", f"{received / 1e9:,.1f}",
        f"{seconds['all_overlapped']:.2f} to {seconds['none_overlapped']:.2f} ({line['bound_by']})",
        f"{use['all_overlapped']:.0%} to {use['none_overlapped']:.0%}" if worked else "-",
    ]  # fmt: skip
    return " | ".join(["", *cells, ""]).strip()


def main() -> None:
    """Compile, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--write-only", action="store_true", help="Compile nothing; write the table.")
    options = parser.parse_args()
    paths = sorted(HERE.glob("*.toml"))
    if unknown := set(options.names) - {path.stem for path in paths}:
        parser.error(f"no such configuration: {', '.join(sorted(unknown))}")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for path in paths:
        if not options.write_only and (not options.names or path.stem in options.names):
            found = check(RunConfig.load(path), path.stem, remedies=False, keep=options.keep, say=print)
            results[path.stem] = found.to_json()
    results = {path.stem: results[path.stem] for path in paths if path.stem in results}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    rows = "\n".join(row(path, results.get(path.stem)) for path in paths)
    text = README.read_text(encoding="utf-8")
    text = re.sub(r"(\|---[-|:]*\|\n)(?:\| `.*\n)*", lambda rule: f"{rule[1]}{rows}\n", text, count=1)
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
