"""The rows of a batch, found at random by their number.

The training documents are one ring of N tokens (each document ends with the end-of-text token). An epoch turns the
ring by a random amount, cuts it into N // S windows, and serves them in a random order; a window holds S + 1 tokens,
so it scores S. Nothing is padded, at most S - 1 tokens of an epoch are left out, and others in every epoch. Both the
turn and the order follow from the seed and the number of the epoch alone: any row is found in constant time.

B sequences in the batch of all processes, S tokens scored in each, b = B / processes
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Integer

from tritter_jax.data.tokens import TokenView

_THREADS, _AHEAD = 1, 8
ENDLESS = 1 << 53
"""More rows than any run trains on."""


class Batch(NamedTuple):
    """Rows of token ids; token t + 1 of a row is to be predicted from tokens 0 to t.

    Args:
        tokens: S inputs and, moved by one, S targets.
        weights: 1 where the target counts, 0 where it only fills up the last batch of an evaluation.
    """

    tokens: Int32[np.ndarray, "b S+1"]
    weights: Float32[np.ndarray, "b S"]


class Windows:
    """Row r of the endless, shuffled sequence of training rows."""

    def __init__(self, view: TokenView, length: int, seed: int, index: int, count: int) -> None:
        import grain

        self.view, self.length, self.index, self.count = view, length, index, count
        self.windows = len(view) // length
        self._order: Any = grain.MapDataset.range(self.windows).seed(seed).shuffle().repeat()
        self._turn = lru_cache(maxsize=4)(lambda epoch: _turn(seed, epoch, len(view)))

    def row(self, number: int) -> Integer[np.ndarray, " window"]:
        """The token ids of a row."""
        turn = self._turn(number // self.windows)
        return self.view.around(turn + self._order[number] * self.length, self.length + 1)


class Rows:
    """Batches of one process, from a row on: what Grain reads at random."""

    def __init__(self, source: Windows, first: int, batch_size: int) -> None:
        self._source, self._batch_size = source, batch_size
        self._local = batch_size // source.count
        self._first = first + source.index * self._local
        self._weights = np.ones((self._local, source.length), np.float32)

    def __len__(self) -> int:
        return ENDLESS // self._batch_size

    def __getitem__(self, index: int) -> Batch:
        first = self._first + index * self._batch_size
        tokens = np.empty((self._local, self._source.length + 1), np.int32)
        for i in range(self._local):
            tokens[i] = self._source.row(first + i)
        return Batch(tokens, self._weights)


class InOrder:
    """Batches of one process of an evaluation."""

    def __init__(self, view: TokenView, batch_size: int, length: int, index: int, count: int) -> None:
        self._view, self._batch_size, self._length = view, batch_size, length
        self._local = batch_size // count
        self._first = index * self._local

    def __len__(self) -> int:
        return -(-len(self._view) // (self._length * self._batch_size))

    def __getitem__(self, index: int) -> Batch:
        tokens = np.full((self._local, self._length + 1), self._view.end_of_text, np.int32)
        weights = np.zeros((self._local, self._length), np.float32)
        for i in range(self._local):
            start = (index * self._batch_size + self._first + i) * self._length
            # The stream is the view behind one end-of-text token: place p of it is place p - 1 of the view.
            if start == 0:
                ids = np.append(self._view.end_of_text, self._view.read(0, self._length))
            else:
                ids = self._view.read(start - 1, self._length + 1)
            tokens[i, : len(ids)] = ids
            weights[i, : max(len(ids) - 1, 0)] = 1
        return Batch(tokens, weights)


def _turn(seed: int, epoch: int, size: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]) % size


def prefetched(source: Any) -> Any:
    """Grain's iterator over the batches of a source, read ahead by a thread."""
    import grain

    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))
