"""Loss of a checkpoint on a corpus."""

import math
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import tprog.flax
from tprog.reader import Checkpoint

from tritter_jax.data import EvalBatches, choose_tokenizer, eval_batches, open_corpus, tokenize
from tritter_jax.sharding import MeshShape, make_mesh
from tritter_jax.train.step import compile_eval_step


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well a model predicts a text.

    Args:
        data: the corpus.
        loss: mean negative log-likelihood, nats a token.
        tokens: number of tokens scored.
        bits_per_byte: the same loss, comparable between tokenizers.
    """

    data: str
    loss: float
    tokens: int
    bits_per_byte: float

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that is too large for a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


def evaluate(
    checkpoint: Checkpoint,
    data: str,
    *,
    batch_size: int = 8,
    sequence_length: int = 256,
    everything: bool = False,
    cache: str | Path | None = None,
    dtype: str | None = None,
    tokenizer: str | None = None,
) -> Evaluation:
    """Score a corpus' held-out documents (or all of them) once, each token exactly once.

    Args:
        checkpoint: the model, with its tokenizer.
        data: as `--data`: a file, directory, glob, or builtin corpus.
        batch_size: rows at a time.
        sequence_length: tokens scored in a row.
        everything: score the training documents too.
        cache: where token files are kept.
        dtype: dtype of the computation; that of the weights when None.
        tokenizer: another tokenizer than the checkpoint's, as for `tritter_jax.data.choose_tokenizer`.

    Raises:
        UsageError: there is no tokenizer, the corpus is empty or has a token id beyond the model's vocabulary.
    """
    batches = batches_of(
        checkpoint,
        data,
        batch_size=batch_size,
        sequence_length=sequence_length,
        everything=everything,
        cache=cache,
        tokenizer=tokenizer,
    )
    mesh = make_mesh(MeshShape())
    step = compile_eval_step(mesh, checkpoint.config, dtype=dtype)
    params = tprog.flax.load(checkpoint)
    nll = scored = 0.0
    with jax.set_mesh(mesh):
        for batch in batches:
            sums = step(params, jnp.asarray(batch.tokens), jnp.asarray(batch.weights))
            nll, scored = nll + float(sums.nll), scored + float(sums.tokens)
    return Evaluation(
        data=data, loss=nll / scored, tokens=int(scored), bits_per_byte=nll / math.log(2) / max(batches.bytes, 1)
    )


def batches_of(
    checkpoint: Checkpoint,
    data: str,
    *,
    batch_size: int,
    sequence_length: int,
    everything: bool = False,
    cache: str | Path | None = None,
    tokenizer: str | None = None,
) -> EvalBatches:
    """A corpus' held-out documents (or all of them) as a checkpoint reads them; arguments as for `evaluate`.

    Raises:
        UsageError: as `evaluate`.
    """
    tokens = tokenize(open_corpus(data), choose_tokenizer(checkpoint, tokenizer), cache=cache)
    return eval_batches(
        tokens.everything if everything else tokens.held_out,
        batch_size=batch_size,
        sequence_length=min(sequence_length, checkpoint.config.max_position_embeddings - 1),
        vocab_size=checkpoint.config.vocab_size,
    )
