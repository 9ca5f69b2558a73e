"""Which documents are held out."""

import numpy as np
from jaxtyping import Bool, Int64, UInt64
from tprog import UsageError


def check_fraction(fraction: float) -> None:
    """Refuse a share that is not from 0 to 0.5.

    Raises:
        UsageError: it is not.
    """
    if not 0 <= fraction <= 0.5:
        raise UsageError("held_out", expected="a share from 0 to 0.5", got=fraction, remedy="Choose 0.05.")


def choose_held_out(
    hashes: UInt64[np.ndarray, " documents"], lengths: Int64[np.ndarray, " documents"], fraction: float
) -> Bool[np.ndarray, " documents"]:
    """Hold out the documents whose hash is among the lowest `fraction` of all hashes.

    So a document stays on its side when others come and go. Where chance makes the share of text smaller than half
    or larger than twice `fraction`, as with few documents, they are taken in the order of their hashes instead, each
    that still fits into the share; where none fits, the shortest.

    Args:
        hashes: a hash of each document's text; copies of one text have one hash and stay together.
        lengths: the documents' lengths.
        fraction: share of the documents that is held out.

    Raises:
        UsageError: all documents have the same text, so none can be held out.

    Example:
        >>> hashes = np.array([2**60, 2**63, 2**63 + 5, 2**60], np.uint64)
        >>> choose_held_out(hashes, np.array([5, 9, 90, 5]), 0.1)
        array([ True, False, False,  True])
    """
    if fraction == 0:
        return np.zeros(len(hashes), bool)
    if (hashes == hashes[0]).all():
        raise UsageError(
            "held_out", expected="documents of different texts", got=f"{len(hashes)} with the same text",
            remedy="Give other documents too, or hold out none (0).",
        )  # fmt: skip
    total = int(lengths.sum())
    chosen = hashes.astype(np.float64) < fraction * 2.0**64
    if fraction / 2 <= lengths[chosen].sum() / total <= fraction * 2 and not chosen.all():
        return chosen
    texts, which = np.unique(hashes, return_inverse=True)
    sizes = np.bincount(which, weights=lengths)
    taken, room = np.zeros(len(texts), bool), fraction * total
    for i, size in enumerate(sizes):
        if size <= room:
            taken[i], room = True, room - size
    if not taken.any():
        taken[sizes.argmin()] = True
    return taken[which]
