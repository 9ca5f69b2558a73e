"""Where tensors to be written come from: their names, dtypes and shapes first, their bytes one at a time."""

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from tprog.buffers import aligned_empty
from tprog.config import ModelConfig
from tprog.dtypes import numpy_dtype
from tprog.errors import ParameterError
from tprog.hf_names import hf_tensors
from tprog.tensorheader import TensorSpec


@runtime_checkable
class TensorSource(Protocol):
    """A set of named tensors whose dtypes and shapes are known, and whose bytes are made on demand.

    `tensor` is called once a name, in the order of `specs`, so that a source may compute, stream and forget.
    """

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Dtype and shape by name, in order."""
        ...

    def tensor(self, name: str) -> np.ndarray:
        """The tensor of that name, with that dtype and shape."""
        ...


Tensors = TensorSource | Mapping[str, Any] | Iterable[tuple[str, Any]]
"""What writers accept: a source, arrays by name, or pairs in the order of the parameter table."""


@runtime_checkable
class InPieces(Protocol):
    """A source that can give a tensor piece by piece, so that none is held whole."""

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The tensor itself, or flat arrays of its dtype: whole rows of its first axis, one after the other."""
        ...


def pieces_of(source: TensorSource, name: str) -> Iterator[np.ndarray]:
    """A tensor in pieces where the source can give it so, or else whole."""
    return source.pieces(name) if isinstance(source, InPieces) else iter((source.tensor(name),))


class LazyTensors:
    """A source made of a table and a function from name to array, or to the pieces of one.

    Args:
        specs: dtype and shape by name, in order.
        make: the array of a name.
        pieces: the pieces of a name, where it is not made whole.

    Example:
        >>> source = LazyTensors({"x": TensorSpec(np.dtype("float32"), (2,))}, lambda name: np.ones(2, np.float32))
        >>> source.tensor("x")
        array([1., 1.], dtype=float32)
    """

    def __init__(
        self,
        specs: Mapping[str, TensorSpec],
        make: Callable[[str], np.ndarray] | None = None,
        *,
        pieces: Callable[[str], Iterator[np.ndarray]] | None = None,
    ) -> None:
        assert (make is None) != (pieces is None)
        self.specs = specs
        self._make = make
        self._pieces = pieces

    def tensor(self, name: str) -> np.ndarray:
        """The array of that name."""
        if self._make is not None:
            return self._make(name)
        return whole(self.specs[name], self.pieces(name))

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The array of that name, piece by piece."""
        return self._pieces(name) if self._pieces is not None else iter((self.tensor(name),))


def whole(spec: TensorSpec, pieces: Iterator[np.ndarray]) -> np.ndarray:
    """A tensor put together from its pieces.

    Example:
        >>> whole(TensorSpec(np.dtype("float64"), (2, 2)), iter([np.ones(1), np.zeros(3)])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    first = next(pieces)
    if first.size == math.prod(spec.shape):
        return first.reshape(spec.shape)
    return put_together(aligned_empty(spec.shape, spec.dtype), itertools.chain([first], pieces))


def put_together(memory: np.ndarray, pieces: Iterable[np.ndarray]) -> np.ndarray:
    """Fill contiguous memory with the pieces of a tensor of its shape and dtype; gives that memory."""
    flat, place = memory.reshape(-1), 0
    for piece in pieces:
        flat[place : place + piece.size] = piece.reshape(-1)
        place += piece.size
    return memory


def as_source(tensors: Tensors, config: ModelConfig) -> TensorSource:
    """A source of whatever a writer was given.

    Args:
        tensors: a `TensorSource`; arrays by name (numpy, or anything with `dtype` and `shape` that `np.asarray`
            takes); or pairs (name, array) in the order of `hf_tensors(config)`, each of dtype `config.dtype`.
        config: the model they belong to.

    Raises:
        FormatError: an array's dtype cannot be stored.
        ParameterError: pairs come in another order; raised when their turn comes.

    Example:
        >>> from tprog.sizes import named_size
        >>> as_source({"a": np.zeros((2, 3))}, named_size("test")).specs["a"].shape
        (2, 3)
    """
    if isinstance(tensors, Mapping | TensorSource):
        return named_source(cast(TensorSource | Mapping[str, Any], tensors))
    dtype = numpy_dtype(config.dtype)
    specs = {tensor.name: TensorSpec(dtype, tensor.shape) for tensor in hf_tensors(config)}
    return LazyTensors(specs, _Pull(iter(tensors)))


def named_source(tensors: TensorSource | Mapping[str, Any]) -> TensorSource:
    """A source of arrays by name; a source is given back as it is.

    Raises:
        FormatError: an array's dtype cannot be stored.
    """
    if not isinstance(tensors, Mapping):
        return tensors
    specs = {name: TensorSpec(numpy_dtype(array.dtype), tuple(array.shape)) for name, array in tensors.items()}
    return LazyTensors(specs, lambda name: np.asarray(tensors[name]))


class InAdvance:
    """Tensors of a source in order, in pieces: while one is in use, the next is made in a second thread.

    Args:
        source: where they come from; it is never asked for two at once.
        names: which ones, in order.

    Example:
        >>> source = LazyTensors({}, lambda name: np.zeros(len(name)))
        >>> [(name, array.shape) for name, array in InAdvance(source, ["a", "bc"])]
        [('a', (1,)), ('bc', (2,))]
    """

    def __init__(self, source: TensorSource, names: Iterable[str]) -> None:
        self._source = source
        self._names = deque(names)

    @property
    def unasked(self) -> tuple[str, ...]:
        """Names that the source has not been asked for yet."""
        return tuple(self._names)

    def __iter__(self) -> Generator[tuple[str, np.ndarray]]:
        with closing(_Elsewhere(self._all())) as pieces, ThreadPoolExecutor(1, "tensors") as pool:
            due = pool.submit(pieces.next)
            while (found := due.result()) is not None:
                due = pool.submit(pieces.next)
                yield found
                del found

    def _all(self) -> Generator[tuple[str, np.ndarray]]:
        while self._names:
            name = self._names.popleft()
            yield from ((name, piece) for piece in pieces_of(self._source, name))


class _Elsewhere:
    """A generator that runs in another thread, and is closed when it does not run.

    That the thread has ended is not enough to wait for: Ctrl-C may come before its pool knows of it.
    """

    def __init__(self, generator: Generator[tuple[str, np.ndarray]]) -> None:
        self._generator = generator
        self._running = threading.Lock()

    def next(self) -> tuple[str, np.ndarray] | None:
        """What it gives next; None when it has ended or was closed."""
        with self._running:
            return next(self._generator, None)

    def close(self) -> None:
        """Close it, once it has given what it is about to."""
        with self._running:
            self._generator.close()


class _Pull:
    def __init__(self, pairs: Iterator[tuple[str, Any]]) -> None:
        self._pairs = pairs

    def __call__(self, name: str) -> np.ndarray:
        got, array = next(self._pairs, ("nothing", None))
        if got != name:
            raise ParameterError(
                name, expected="the tensors in the order of tprog.hf_tensors(config)", got=got,
                remedy="Give a mapping, or give the pairs in that order.",
            )  # fmt: skip
        return np.asarray(array)


def main_dtype(specs: Mapping[str, TensorSpec]) -> str:
    """Name of the dtype that most of the bytes have."""
    total: dict[str, int] = {}
    for spec in specs.values():
        total[spec.dtype.name] = total.get(spec.dtype.name, 0) + spec.nbytes
    return max(total, key=lambda name: total[name])
