"""Fisher information of a checkpoint, measured on a corpus and written into it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tprog.flax
from jax.sharding import Mesh
from tprog import UsageError, count_parameters
from tprog.commit import refuse_taken
from tprog.disk import require_space
from tprog.finite import checked
from tprog.flax_host import processes
from tprog.huggingface import kept_files
from tprog.paths import real_path
from tprog.reader import Checkpoint, is_checkpoint
from tprog.writer import write_checkpoint

from tritter_jax.continual import (
    ESTIMATORS,
    TASKS,
    UNIT,
    Memory,
    Progress,
    estimate_fisher,
    join,
    language_logits,
    mean_fisher,
    remember,
    stored_memory,
    windows_batch,
)
from tritter_jax.continual.fisher import require_draws
from tritter_jax.continual.memory import check_gamma
from tritter_jax.continual.stored import check_stored
from tritter_jax.data import TrainBatches
from tritter_jax.sharding import DEFAULT_RULES, MeshShape, Rules, make_mesh, param_shardings
from tritter_jax.train.interrupt import preemption
from tritter_jax.train.measuring import Keeper, Measuring, weights_identity
from tritter_jax.train.processes import all_or_none
from tritter_jax.train.sampling import sample_rows

STORED = ("float32", "bfloat16")
"""Dtypes that Fisher information is stored in."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured, and where it was written.

    Args:
        path: the checkpoint.
        samples: number of rows.
        tokens: number of tokens.
        change: relative change of the estimate by its last batch, in L1.
        ewc_config: what progressive.json says of it.
    """

    path: Path
    samples: int
    tokens: int
    change: float
    ewc_config: dict[str, Any]


def measure_fisher(
    checkpoint: Checkpoint,
    data: str,
    destination: str | Path | None = None,
    *,
    samples: int = 10_000,
    estimator: str = next(iter(ESTIMATORS)),
    draws: int = 1,
    batch_size: int = 8,
    sequence_length: int = 256,
    seed: int = 0,
    stored: str = "float32",
    compute: str | None = None,
    tasks: str | None = None,
    gamma: float | None = None,
    mesh: Mesh | None = None,
    rules: Rules = DEFAULT_RULES,
    restart: bool = False,
    save_every: float = 60.0,
    cache: str | Path | None = None,
    tokenizer: str | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Measure a checkpoint's Fisher information on a corpus, and write it with the weights as the anchor.

    What was measured is kept beside the destination now and then, and when a signal asks for an end; the same call
    then goes on from there. All processes of a job call it.

    Args:
        checkpoint: the model, with its tokenizer.
        data: as `--data`: a file, directory, glob, or builtin corpus, of which the training documents are used.
        destination: the checkpoint to make; the source itself is replaced, whole, when None.
        samples: number of rows, drawn without repetition.
        estimator: a key of `tritter_jax.continual.ESTIMATORS`.
        draws: label draws a batch.
        batch_size: rows at a time.
        sequence_length: tokens scored in a row.
        seed: of rows and draws.
        stored: dtype of the Fisher information in the file, one of `STORED`.
        compute: dtype of the computation; that of the weights when None.
        tasks: how it joins what the checkpoint already remembers, a key of `tritter_jax.continual.TASKS`; must be
            given where there is such, and has no effect to be asked for where there is none.
        gamma: what the rule `online` multiplies the old Fisher information with, from 0 to 1; 1 when None.
        mesh: the devices; the first one when None.
        rules: logical axis to mesh axis.
        restart: whether a measurement that was begun is thrown away.
        save_every: seconds between two times that it is kept.
        cache: where token files are kept.
        tokenizer: another tokenizer than the checkpoint's, as for `tritter_jax.data.choose_tokenizer`.
        report: told after every batch.
        say: told where it goes on, or cannot.

    Raises:
        UsageError: the corpus has fewer rows than asked for, an option is none that there is, the destination is
            taken, or what was kept there is of another command.
        FormatError: what the checkpoint remembers, or what was kept, is broken.
        VerificationError: a batch gave NaN or infinity.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM; what was measured is kept.
    """
    mesh = make_mesh(MeshShape()) if mesh is None else mesh
    path = real_path(checkpoint.path if destination is None else Path(destination))
    config = checkpoint.config
    length = min(sequence_length, config.max_position_embeddings - 1)
    shardings = param_shardings(config, mesh, rules)

    def prepare() -> TrainBatches:
        for option, value, known in (("--dtype", stored, STORED), ("--estimator", estimator, ESTIMATORS)):
            if value not in known:
                raise UsageError.unknown(option, value, known)
        new = destination is not None
        refuse_taken(path, overwrite=not new, is_ours=is_checkpoint, source=checkpoint.path if new else None)
        require_draws(ESTIMATORS[estimator], draws)
        _check_tasks(checkpoint, tasks, gamma)
        require_space(path, _result_bytes(checkpoint, stored))
        return sample_rows(
            checkpoint, data, mesh, samples=samples, batch_size=batch_size, length=length, seed=seed, cache=cache,
            tokenizer=tokenizer,
        )  # fmt: skip

    batches = all_or_none(prepare)
    command = {
        "model": weights_identity(checkpoint), "data": batches.get_state()["data"], "samples": samples,
        "draws": draws, "estimator": estimator, "batch_size": batch_size, "sequence_length": length, "seed": seed,
        "compute": compute,
    }  # fmt: skip
    kept = Measuring.beside(path, config, command)
    try:
        if restart:
            kept.remove()
        begun, place = kept.load(shardings, say)
        if begun is not None:
            batches.set_state(place)
            say(f"going on after {begun.rows:,} rows, kept in {kept.path}")
        params = tprog.flax.load(checkpoint, shardings=shardings)
        with preemption() as preempted:
            keeper = Keeper(kept, batches, mesh, samples, save_every, preempted, say)

            def told(at: Progress) -> None:
                report(at)
                keeper(at)

            total = estimate_fisher(
                language_logits(config, compute),
                params,
                (windows_batch(batch.tokens, batch.weights) for batch in batches),
                estimator=estimator,
                samples=samples,
                draws=draws,
                seed=seed,
                mesh=mesh,
                begun=begun,
                report=told,
            )
    finally:
        batches.close()
    memory = remember(mean_fisher(total), params)
    joined = "fisher" in checkpoint.parts and tasks != "single"
    if joined and tasks is not None:
        memory = join(
            stored_memory(checkpoint, shardings=shardings), memory, rule=tasks, gamma=1.0 if gamma is None else gamma
        )
    found = {
        "enabled": True,
        "fisher_samples": samples,
        "estimator": estimator,
        "unit": UNIT,
        "draws": draws,
        "tokens": total.tokens,
        "data": data,
        "tasks": tasks if joined else "single",
        "constant": float(memory.constant),
    }
    known = checkpoint.progressive.ewc_config
    found = ({} if known is None else known.to_json()) | found
    _write(checkpoint, path, memory, stored, found, overwrite=destination is None)
    kept.remove()
    return Measured(path=path, samples=samples, tokens=total.tokens, change=keeper.change, ewc_config=found)


def _result_bytes(checkpoint: Checkpoint, stored: str) -> int:
    """Bytes of the checkpoint that is written at the end: weights, anchor, Fisher information and other parts."""
    weights = sum(spec.nbytes for spec in checkpoint.specs.values())
    fisher = count_parameters(checkpoint.config) * jnp.dtype(stored).itemsize
    return 2 * weights + fisher + replace(checkpoint.to_parts(), fisher=None, old_params=None).nbytes


def _check_tasks(checkpoint: Checkpoint, tasks: str | None, gamma: float | None) -> None:
    """Refuse to measure where it is not said what becomes of the tasks that the checkpoint remembers already, and
    where it is said of tasks that it does not remember."""
    if tasks is not None and tasks not in TASKS:
        raise UsageError.unknown("--tasks", tasks, TASKS)
    if gamma is not None:
        check_gamma(gamma)
        if tasks != "online":
            raise UsageError(
                "--gamma", expected="--tasks online beside it, whose old information it fades", got=tasks or "none",
                remedy="Leave --gamma out, or add --tasks online.",
            )  # fmt: skip
    if "fisher" not in checkpoint.parts:
        if tasks not in (None, "single"):
            raise UsageError(
                "--tasks", expected=f"a checkpoint that remembers a task, to join by {tasks}",
                got=f"{checkpoint.path} without Fisher information", remedy="Leave --tasks out for the first task.",
            )  # fmt: skip
        return
    if tasks not in TASKS:
        raise UsageError(
            "--tasks", expected=f"one of {', '.join(TASKS)}, since {checkpoint.path} remembers a task already",
            got="none" if tasks is None else repr(tasks),
            remedy="separate keeps both, online lets the old one fade, single keeps the new one only.",
        )  # fmt: skip
    if tasks != "single":
        check_stored(checkpoint)


def _write(
    checkpoint: Checkpoint, path: Path, memory: Memory, stored: str, ewc_config: dict[str, Any], *, overwrite: bool
) -> None:
    config = checkpoint.config
    fisher = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(stored)), memory.fisher)
    write_checkpoint(
        path,
        config,
        checkpoint,
        progressive=checkpoint.progressive.with_fields(ewc_config=ewc_config),
        tokenizer_from=checkpoint.path,
        files=kept_files(checkpoint),
        parts=replace(
            checkpoint.to_parts(),
            fisher=checked(
                tprog.flax.to_tensors(fisher, config), remedy="Store it in another --dtype: float32 is the default."
            ),
            old_params=tprog.flax.to_tensors(memory.anchor, config),
        ),
        overwrite=overwrite,
        gang=processes(),
    )
