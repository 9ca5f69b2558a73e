"""tritter init: a freshly initialised model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from tprog import UsageError, count_parameters, load_config, named_size, size_label
from tprog.layout import SHARD_SIZE, CheckpointName

from tritter_jax.cli import completion
from tritter_jax.cli.arguments import MAX_SEED, byte_count, check_dtype
from tritter_jax.cli.output import emit
from tritter_jax.cli.progress import stages


def init(
    size: Annotated[
        str | None, typer.Option(help="A named size; `tritter sizes` lists them.", autocompletion=completion.sizes)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A config.json instead of a named size.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Stored dtype; default bfloat16, or the config's own.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initialisation.", min=0, max=MAX_SEED)] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to write; default tritter-{size}-0.tprog here.")] = None,
    shard_size: Annotated[str, typer.Option(help="Largest weights file.")] = f"{SHARD_SIZE // 10**9}GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing checkpoint.")] = False,
) -> None:
    """Write a freshly initialised model as a .tprog.

    Example: tritter init --size 125M --seed 1
    """
    from dataclasses import replace

    if (size is None) == (config is None):
        raise UsageError(
            "tritter init", expected="either --size or --config", got="both" if size else "neither",
            remedy="For example: tritter init --size 125M",
        )  # fmt: skip
    chosen = named_size(size) if size else load_config(config or Path())
    default = "bfloat16" if size else chosen.dtype
    model = replace(chosen, dtype=check_dtype(dtype) or default)
    destination = out or Path(str(CheckpointName(model="tritter", size=size_label(model), step=0)))
    limit = byte_count(shard_size)

    with stages() as stage:
        stage("starting")
        import tprog.flax
        from tprog.commit import refuse_taken

        from tritter_jax.growth.drift import precision
        from tritter_jax.model import init_params

        refuse_taken(destination, overwrite=overwrite)
        with precision(model.dtype):
            stage("drawing")
            params = init_params(model, seed=seed)
            stage("writing")
            path = tprog.flax.save(destination, params, model, shard_size=limit, overwrite=overwrite)

    result = {"path": str(path), "parameters": count_parameters(model), "dtype": model.dtype, "seed": seed}

    def render(console: Console) -> None:
        console.print(f"{path}: {result['parameters']:,} parameters, {model.dtype}, seed {seed}", markup=False)

    emit(result, render)
