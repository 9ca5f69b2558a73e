"""Batches of token ids, served by Grain: the same on every machine, whatever the number of processes.

How an epoch is cut and shuffled is told in `tritter_jax.data.rows`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tprog import UsageError

from tritter_jax.data.rows import ENDLESS, Batch, InOrder, Rows, Windows, prefetched
from tritter_jax.data.tokens import TokenFile, TokenView

_VERSION = 1


class TrainBatches(Iterator[Batch]):
    """An endless iterator over the rows that one process trains on; `train_batches` makes it.

    Attributes:
        rows: number of rows that were served to all processes together, where training goes on.
        rows_per_epoch: number of rows of one epoch.
    """

    def __init__(self, source: Windows, seed: int, batch_size: int) -> None:
        self._source, self._seed, self._batch_size = source, seed, batch_size
        self.rows_per_epoch = source.windows
        self.rows = 0
        self._start(0)

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self.rows += self._batch_size
        return batch

    @property
    def epoch(self) -> float:
        """How often the data were served, 1.5 after one and a half times."""
        return self.rows / self.rows_per_epoch

    def get_state(self, rows: int | None = None) -> dict[str, Any]:
        """The place in the data, as JSON; it holds for any number of processes and any batch size.

        Args:
            rows: the place after so many rows; after those that were served when None.
        """
        return {
            "version": _VERSION,
            "rows": self.rows if rows is None else rows,
            "seed": self._seed,
            "sequence_length": self._source.length,
            "data": self._source.view.digest,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a place, at once however far it is.

        Raises:
            UsageError: the place is one in other data, or in windows of another seed or length.
        """
        here = self.get_state()
        rows = state.get("rows")
        if not isinstance(rows, int) or isinstance(rows, bool) or not 0 <= rows < ENDLESS or set(state) != set(here):
            raise _other_place("data state", "what get_state gave", str(dict(state))[:200])
        for name in ("version", "data", "seed", "sequence_length"):
            if state[name] != here[name]:
                raise _other_place(f"data state: {name}", here[name], state[name])
        self._start(rows)

    def close(self) -> None:
        """Stop reading ahead."""
        self._batches.close()

    def _start(self, rows: int) -> None:
        if hasattr(self, "_batches"):
            self.close()
        self.rows = rows
        self._batches = prefetched(Rows(self._source, rows, self._batch_size))


def train_batches(
    data: TokenFile | TokenView,
    *,
    batch_size: int,
    sequence_length: int,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    vocab_size: int | None = None,
) -> TrainBatches:
    """Shuffled rows of the training documents, without end, read ahead by a thread.

    Args:
        data: a token file, of which the training documents are served, or a view of one.
        batch_size: number of rows of all processes together.
        sequence_length: number of tokens scored in a row.
        seed: decides the order.
        process_index: this process; it gets rows `process_index * b` to `(process_index + 1) * b` of every batch.
        process_count: number of processes.
        vocab_size: the model's; a token id beyond it is refused now.

    Raises:
        UsageError: the batch does not divide over the processes, a token id is beyond the vocabulary, or the data are
            shorter than one row.

    Example:
        >>> import tempfile
        >>> from tritter_jax.data import byte_tokenizer, open_corpus, tokenize
        >>> file = tokenize(open_corpus("builtin:prose"), byte_tokenizer(), cache=tempfile.mkdtemp())
        >>> batches = train_batches(file, batch_size=4, sequence_length=32)
        >>> first, place = next(batches), batches.get_state()
        >>> second = next(batches)
        >>> batches.set_state(place)
        >>> first.tokens.shape, (next(batches).tokens == second.tokens).all().item()
        ((4, 33), True)
        >>> batches.close()
    """
    view = data.train if isinstance(data, TokenFile) else data
    _check(view, batch_size, sequence_length, process_index, process_count, vocab_size)
    if not 0 <= seed < 1 << 32:
        raise UsageError("seed", expected="a number from 0 to 4294967295", got=seed, remedy="Choose another seed.")
    if len(view) <= sequence_length:
        raise UsageError(
            "--data", expected=f"more than {sequence_length} tokens, one row", got=f"{len(view)} to train on",
            remedy="Give more text, or a smaller sequence length.",
        )  # fmt: skip
    source = Windows(view, sequence_length, seed, process_index, process_count)
    return TrainBatches(source, seed, batch_size)


class EvalBatches:
    """Each token of a view once, in order; `eval_batches` makes it. Iterating again starts again.

    Attributes:
        tokens: number of tokens scored, over all processes.
        bytes: UTF-8 bytes of the text scored: nats / log(2) / bytes are the bits per byte.
        documents: number of documents.
    """

    def __init__(self, source: InOrder, view: TokenView) -> None:
        self._source = source
        self.tokens, self.bytes, self.documents = len(view), view.bytes, view.documents

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Batch]:
        batches = prefetched(self._source)
        try:
            yield from batches
        finally:
            batches.close()


def eval_batches(
    data: TokenFile | TokenView,
    *,
    batch_size: int,
    sequence_length: int,
    process_index: int = 0,
    process_count: int = 1,
    vocab_size: int | None = None,
) -> EvalBatches:
    """The held-out documents once, in order, each token scored exactly once.

    The stream begins with an end-of-text token, so that its first token has something to follow; the last row and the
    last batch are filled up with tokens of weight 0. End-of-text tokens are scored too. A token is predicted from
    what lies before it in its row.

    Args:
        data: a token file, of which the held-out documents are served, or a view of one.
        batch_size: number of rows of all processes together.
        sequence_length: number of tokens scored in a row.
        process_index: this process.
        process_count: number of processes.
        vocab_size: the model's; a token id beyond it is refused now.

    Raises:
        UsageError: as `train_batches`, or nothing is held out.

    Example:
        >>> import tempfile
        >>> from tritter_jax.data import byte_tokenizer, open_corpus, tokenize
        >>> file = tokenize(open_corpus("builtin:prose"), byte_tokenizer(), cache=tempfile.mkdtemp())
        >>> batches = eval_batches(file, batch_size=4, sequence_length=512)
        >>> sum(int(batch.weights.sum()) for batch in batches) == batches.tokens == len(file.held_out)
        True
    """
    view = data.held_out if isinstance(data, TokenFile) else data
    _check(view, batch_size, sequence_length, process_index, process_count, vocab_size)
    if not len(view):
        raise UsageError(
            "--data", expected="held-out documents", got="none",
            remedy="Give more text, hold out a larger share of it (data.held_out of a run), or score all (--all).",
        )  # fmt: skip
    return EvalBatches(InOrder(view, batch_size, sequence_length, process_index, process_count), view)


def _check(view: TokenView, batch: int, length: int, index: int, count: int, vocab_size: int | None) -> None:
    for name, value in (("batch_size", batch), ("sequence_length", length), ("process_count", count)):
        if value < 1:
            raise UsageError(name, expected="a whole number above 0", got=value, remedy="Mend it.")
    if batch % count:
        raise UsageError(
            "batch_size", expected=f"a multiple of the {count} processes", got=batch,
            remedy=f"Choose {-(-batch // count) * count}.",
        )  # fmt: skip
    if not 0 <= index < count:
        raise UsageError("process_index", expected=f"0 to {count - 1}", got=index, remedy="Count processes from 0.")
    if vocab_size is not None:
        view.check_vocabulary(vocab_size)


def _other_place(where: str, expected: object, got: object) -> UsageError:
    return UsageError(
        where, expected=expected, got=got,
        remedy="Go on with the data, tokenizer, seed and sequence length that the run began with.",
    )  # fmt: skip
