"""The loss on held-out documents, as a run measures it between two steps."""

from collections.abc import Callable
from typing import Any

import jax
from tprog import UsageError

from tritter_jax.data import eval_batches
from tritter_jax.sharding import batch_sharding
from tritter_jax.train.processes import batch_part
from tritter_jax.train.setup import Run
from tritter_jax.train.step import compile_eval_step


def held_out_loss(run: Run) -> Callable[[Any], float]:
    """A function of the parameters: mean held-out loss over at most `eval_batches` batches, nats a token.

    All processes of a job call it.

    Raises:
        UsageError: there is no held-out text.
    """
    settings = run.settings
    rows, length = settings.data.batch_size, settings.data.sequence_length
    if not settings.data.held_out:
        raise UsageError(
            "data.held_out", expected="a share above 0, to measure the held-out loss on", got=0,
            remedy="Choose a share such as 0.05, or measure none with output.eval_interval=0.",
        )  # fmt: skip
    part, parts = batch_part(run.mesh)
    batches = eval_batches(
        run.tokens,
        batch_size=rows,
        sequence_length=length,
        process_index=part,
        process_count=parts,
        vocab_size=run.config.vocab_size,
    )
    step = compile_eval_step(run.mesh, run.config, rules=run.rules, dtype=run.dtype)
    sharding = batch_sharding(run.mesh)

    def measure(params: Any) -> float:
        nll = tokens = 0.0
        for number, batch in enumerate(batches):
            if number == settings.output.eval_batches:
                break
            windows = jax.make_array_from_process_local_data(sharding, batch.tokens, (rows, length + 1))
            weights = jax.make_array_from_process_local_data(sharding, batch.weights, (rows, length))
            sums = step(params, windows, weights)
            nll, tokens = nll + float(sums.nll), tokens + float(sums.tokens)
        return nll / tokens

    return measure
