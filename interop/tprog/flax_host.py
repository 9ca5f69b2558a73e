"""JAX arrays brought to this host, wherever their pieces lie, and JAX's processes as a gang that saves together."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from tprog.gang import Gang

_WORDS = 4096


def layer_on_host(leaf: Any, layer: int | None) -> np.ndarray:
    """One layer of an array (or all of one that is not stacked), in memory of this host.

    Where pieces lie with other processes, all processes must call this together, and each gets the whole.

    Example:
        >>> import jax.numpy as jnp
        >>> layer_on_host(jnp.arange(6).reshape(2, 3), 1)
        array([3, 4, 5], dtype=int32)
    """
    part = ... if layer is None else layer
    if not isinstance(leaf, jax.Array):
        return np.asarray(leaf[part])
    if leaf.is_fully_replicated:
        piece = leaf.addressable_data(0)
        # On this machine's CPU numpy sees the array itself; from elsewhere only the layer is fetched.
        on_cpu = next(iter(piece.devices())).platform == "cpu"
        return np.asarray(piece)[part] if on_cpu else np.asarray(piece[part])
    if not leaf.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(leaf[part], tiled=True))
    result = np.empty(leaf.shape if layer is None else leaf.shape[1:], leaf.dtype)
    for shard in leaf.addressable_shards:
        if shard.replica_id != 0:
            continue
        if layer is None:
            result[shard.index] = np.asarray(shard.data)
            continue
        held = range(*shard.index[0].indices(leaf.shape[0]))
        if layer in held:
            result[shard.index[1:]] = np.asarray(shard.data[layer - held.start])
    return result


def processes() -> Gang:
    """The processes of this JAX program; a gang of one where there is only one."""
    return _Processes() if jax.process_count() > 1 else Gang()


class _Processes(Gang):
    def __init__(self) -> None:
        self.rank = jax.process_index()
        self.count = jax.process_count()

    def share(self, text: str) -> str:
        return _text(multihost_utils.broadcast_one_to_all(_words(text)))

    def gather(self, text: str) -> list[str]:
        said = np.asarray(multihost_utils.process_allgather(_words(text)))
        return [_text(words) for words in said.reshape(self.count, _WORDS)]


def _words(text: str) -> np.ndarray:
    """A text as an array of a length that all processes know; what does not fit is cut off."""
    data = text.encode("utf-8")[:_WORDS]
    return np.frombuffer(data.ljust(_WORDS, b"\0"), np.uint8)


def _text(words: Any) -> str:
    return np.asarray(words).astype(np.uint8).tobytes().rstrip(b"\0").decode("utf-8", "ignore")
