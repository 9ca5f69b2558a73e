"""The rows of text that Fisher information is measured on."""

from pathlib import Path

from jax.sharding import Mesh
from tprog import UsageError
from tprog.reader import Checkpoint

from tritter_jax.continual.fisher import batch_shards
from tritter_jax.data import TrainBatches, choose_tokenizer, open_corpus, tokenize, train_batches
from tritter_jax.train.processes import batch_part


def sample_rows(
    checkpoint: Checkpoint,
    data: str,
    mesh: Mesh,
    *,
    samples: int | None,
    batch_size: int,
    length: int,
    seed: int,
    cache: str | Path | None,
    tokenizer: str | None = None,
) -> TrainBatches:
    """This process' part of rows of a corpus' training documents, in the order in which they are to be measured on.

    Args:
        checkpoint: whose tokenizer is used.
        data: as `--data`: a file, directory, glob, or builtin corpus.
        mesh: the devices.
        samples: number of rows that will be taken; None where all there are will do.
        batch_size: rows at a time, of all processes.
        length: tokens scored in a row.
        seed: of the order.
        cache: where token files are kept.
        tokenizer: another tokenizer than the checkpoint's, as for `choose_tokenizer`.

    Raises:
        UsageError: there is no tokenizer, the corpus has fewer rows, or the mesh does not divide a batch.
    """
    reader = choose_tokenizer(checkpoint, tokenizer)
    part, parts = batch_part(mesh)
    if batch_size % batch_shards(mesh):
        raise UsageError(
            "--batch-size", expected=f"a multiple of {batch_shards(mesh)}, as data x fsdp", got=batch_size,
            remedy="Choose another batch size, or a smaller mesh.",
        )  # fmt: skip
    batches = train_batches(
        tokenize(open_corpus(data), reader, cache=cache),
        batch_size=batch_size,
        sequence_length=length,
        seed=seed,
        process_index=part,
        process_count=parts,
        vocab_size=checkpoint.config.vocab_size,
    )
    if samples is not None and samples > batches.rows_per_epoch:
        batches.close()
        raise UsageError(
            "--samples", expected=f"at most {batches.rows_per_epoch}, the rows of {length} tokens in {data}",
            got=samples, remedy="Ask for fewer, give more data, or make --sequence-length smaller.",
        )  # fmt: skip
    return batches
