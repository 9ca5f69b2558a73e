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

    Where that leaves one side empty, or holds out more than half of the text, the one text of lowest hash is held
    out among those that are no longer than the median.

    Args:
        hashes: a hash of each document's text; copies of one text have one hash and stay together.
        lengths: the documents' lengths.
        fraction: share of the documents that is held out.

    Raises:
        UsageError: all documents have the same text, so none can be held out.

    Example:
        >>> hashes = np.array([2**60, 2**63, 2**63 + 5, 2**60], np.uint64)
        >>> choose_held_out(hashes, np.array([5, 9, 30, 5]), 0.1)
        array([ True, False, False,  True])
    """
    if fraction == 0:
        return np.zeros(len(hashes), bool)
    if (hashes == hashes[0]).all():
        raise UsageError(
            "held_out", expected="documents of different texts", got=f"{len(hashes)} with the same text",
            remedy="Give other documents too, or hold out none (0).",
        )  # fmt: skip
    chosen = hashes.astype(np.float64) < fraction * 2.0**64
    if chosen.any() and 2 * lengths[chosen].sum() <= lengths.sum():
        return chosen
    short = lengths <= np.median(lengths)
    return hashes == hashes[short].min()
