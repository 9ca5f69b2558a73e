"""tritter expand: a checkpoint into a larger one that computes the same function."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from tprog import ModelConfig, UsageError, size_label
from tprog.layout import SHARD_SIZE

from tritter_jax.cli import completion
from tritter_jax.cli.arguments import byte_count, layer_list, source_path
from tritter_jax.cli.output import emit, err, ranges, tell_code
from tritter_jax.cli.plan import (
    Depth,
    DType,
    Everywhere,
    Exact,
    Inexact,
    Layers,
    Noise,
    Positions,
    Seed,
    Split,
    Width,
    planned,
    print_plan,
    recommended,
    warn_of_copies,
)
from tritter_jax.cli.progress import stages


def expand(
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A .tprog, a Hugging Face directory, org/name on the Hub, or a size: of the *-{size}-*.tprog "
            "here the one of the most training steps; without it, of all sizes.",
            autocompletion=completion.sources,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="A named size, a config.json, or a plan that `tritter plan --save` wrote; without it, what `tritter "
            "recommend` stored.",
            autocompletion=completion.sizes,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The .tprog to write; default {model}-{size}-{step}.tprog here.")
    ] = None,
    depth: Depth = "identity",
    positions: Positions = "auto",
    layers: Layers = None,
    width: Width = "duplicate",
    split: Split = "uneven",
    noise: Noise = None,
    noise_everywhere: Everywhere = False,
    allow_inexact: Inexact = False,
    seed: Seed = None,
    dtype: DType = None,
    exact_shape: Exact = False,
    optimizer: Annotated[
        str,
        typer.Option(
            help="How the optimizer's moments move: asymmetric (new entries begin at 0), transport (all as the grown "
            "model would have them), or reset (left out).",
            autocompletion=completion.strategies("optimizer"),
        ),
    ] = "asymmetric",
    fisher: Annotated[
        str,
        typer.Option(
            help="How Fisher information moves: preserve (moving all copies costs what it cost), or exact (the grown "
            "model's own).",
            autocompletion=completion.strategies("fisher"),
        ),
    ] = "preserve",
    refresh_fisher: Annotated[
        str | None,
        typer.Option(
            help="What the Fisher information was measured on: that of new entries which write zeros is then "
            "measured on the grown model; without, they get the median of their kind."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Beside --refresh-fisher: read its text with this tokenizer instead of the checkpoint's."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare both models before the result is put in place.")
    ] = True,
    shard_size: Annotated[str, typer.Option(help="Largest weights file.")] = f"{SHARD_SIZE // 10**9}GB",
    trust_hooks: Annotated[
        bool, typer.Option("--trust-hooks", help="Run the source's expansion_hooks.py, which may add strategies.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing checkpoint.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what a killed run left, from its last whole file.")
    ] = False,
) -> None:
    """Grow a checkpoint in depth and width, with all that it holds; the result computes the same function.

    Without --to it follows the recommendation that `tritter recommend` stored.

    Examples:
        tritter expand --from 3B --to 7B
        tritter expand --from org/model --to 7B --dtype bfloat16
        tritter expand --from a-3B-0.tprog
    """
    limit, chosen = byte_count(shard_size), layer_list(layers)
    if tokenizer is not None and refresh_fisher is None:
        raise UsageError(
            "--tokenizer", expected="--refresh-fisher beside it", got="none", remedy="Leave --tokenizer out."
        )
    with stages() as stage:
        stage("starting")
        from tprog.commit import refuse_taken
        from tprog.hooks import run_hooks
        from tprog.layout import default_name, newest
        from tprog.reader import is_checkpoint, open_checkpoint

        from tritter_jax.growth import describe, load_strategies
        from tritter_jax.growth.carry import unknown_fisher
        from tritter_jax.growth.expand import expand as run
        from tritter_jax.growth.expand import stored_scores

        load_strategies()
        checkpoint = open_checkpoint(newest() if source is None else source_path(source))
        for option, value, default, part in (
            ("--optimizer", optimizer, "asymmetric", "optimizer"), ("--fisher", fisher, "preserve", "fisher"),
        ):  # fmt: skip
            if value not in (default, "reset") and part not in checkpoint.parts:
                raise UsageError(
                    option, expected=f"a source with a part named {part}", got=f"{checkpoint.path} without",
                    remedy=f"Leave {option} out: it would have no effect.",
                )  # fmt: skip
        if source is None:
            err().print(f"growing {checkpoint.path}", style="dim", markup=False)
        run_hooks(checkpoint, trust=trust_hooks)
        tell_code(checkpoint.path, "left out, as code does not come along")
        goal: str | ModelConfig
        if target is None:
            goal, advised = recommended(checkpoint)
            said = f"following the stored recommendation: {size_label(goal)}"
            if chosen is None and positions == "auto" and depth == "identity":
                chosen = advised
                said += f", copying layers {ranges(advised)}" if advised else ""
            err().print(said, markup=False)
        else:
            goal = target
        plan = planned(
            checkpoint.config,
            goal,
            dtype,
            stored_scores(checkpoint),
            exact_shape=exact_shape,
            depth=depth,
            positions=positions,
            layers=chosen,
            width=width,
            split=split,
            noise=noise,
            noise_everywhere=noise_everywhere,
            allow_inexact=allow_inexact,
            seed=seed,
        )
        warn_of_copies(plan, stored_scores(checkpoint))
        steps = checkpoint.progressive.steps
        destination = out or Path(default_name(checkpoint.path, size_label(plan.target), steps))
        refuse_taken(destination, overwrite=overwrite, is_ours=is_checkpoint, source=checkpoint.path)
        measured = None
        if refresh_fisher is not None:
            stage("measuring the grown model's Fisher information")
            from tritter_jax.growth.expand import require_room
            from tritter_jax.train.refresh import measure_grown

            if not resume:
                require_room(checkpoint, destination, plan, optimizer=optimizer, fisher=fisher)
            measured = measure_grown(checkpoint, plan, refresh_fisher, tokenizer=tokenizer)
        done = run(
            checkpoint,
            destination,
            plan,
            optimizer=optimizer,
            fisher=fisher,
            measured=measured,
            verify=verify,
            overwrite=overwrite,
            shard_size=limit,
            progress=stage,
            advance=stage.advance,
            resume=resume,
        )
    unknown = unknown_fisher(done.plan)
    left = [name for name in checkpoint.parts if name not in done.carried]
    result: dict[str, Any] = {
        "source": str(checkpoint.path),
        "path": str(done.path),
        "plan": describe(done.plan),
        "measured_drift": done.drift.as_json() if done.drift else None,
        "carried": list(done.carried),
        "left_behind": left,
        "fisher_unknown": unknown,
        "fisher_measured_on": refresh_fisher,
    }

    def render(console: Console) -> None:
        print_plan(console, done.plan)
        console.print(f"wrote {done.path}", markup=False)
        if done.drift is None:
            console.print("not verified (--no-verify)")
        else:
            promise = done.plan.guarantee
            bound = f"tolerance {promise.tolerance:.0e} in {promise.dtype}" if promise.exact else "none was promised"
            console.print(
                f"largest relative difference of the logits: {done.drift.max_relative:.2e} over "
                f"{done.drift.tokens} tokens ({bound})"
            )
            within, least = (
                (f" (at most {promise.kl:.0e})", f" (at least {promise.agreement:.0%})")
                if promise.exact
                else ("", "")
            )
            console.print(
                f"KL divergence of the predictions: {done.drift.kl:.2e} nats a token{within}; the same most likely "
                f"token at {done.drift.agreement:.1%} of positions{least}"
            )
            if done.drift.before_rounding is not None:
                console.print(f"before rounding to {done.plan.guarantee.dtype}: {done.drift.before_rounding:.2e}")
        moved = {"optimizer": optimizer, "fisher": fisher}
        names = [f"{name} ({moved[name]})" if name in moved else name for name in done.carried]
        if names:
            console.print(f"taken along: {', '.join(names)}", markup=False)
        if "fisher" in done.carried and unknown:
            how = "have the median of their kind" if refresh_fisher is None else f"were measured on {refresh_fisher}"
            console.print(f"Fisher information: {unknown:,} new entries {how}", markup=False)
        for name in left:
            console.print(Text.assemble(("left behind:", "yellow"), f" {name}"))

    emit(result, render)
