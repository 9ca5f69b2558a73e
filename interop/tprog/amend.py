"""New metadata for a checkpoint that lies there: progressive.json is replaced in one step, and no weight is touched.

The manifest lists every file but progressive.json, so that it holds as before. A directory that has its tokenizer in
tokenizer/ alone gains the copies at the top.
"""

import os
from pathlib import Path
from typing import Any

from tprog.commit import only_writer
from tprog.disk import sync, sync_tree
from tprog.errors import UsageError
from tprog.layout import PROGRESSIVE
from tprog.paths import real_path
from tprog.reader import open_checkpoint
from tprog.schema import Progressive, read_progressive, write_progressive
from tprog.tokenizer_copies import missing_copies, put_copies, with_copies


def amend(path: str | Path, **fields: Any) -> Progressive:
    """Replace fields of a checkpoint's progressive.json; a killed writer leaves the old file or the new one.

    Args:
        path: a `.tprog` or Hugging Face directory; one without progressive.json gains it.
        **fields: those of `Progressive`; None leaves a field out.

    Returns:
        The metadata as it is now.

    Raises:
        FormatError: it is no checkpoint, or a value does not fit its field.
        UsageError: somebody else is writing it, or it cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from tprog import ModelConfig, hf_tensors
        >>> from tprog.writer import write_checkpoint
        >>> config = ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=8,
        ...                      vocab_size=16)
        >>> arrays = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in hf_tensors(config)}
        >>> path = write_checkpoint(Path(tempfile.mkdtemp(), "tiny-1K-0.tprog"), config, arrays)
        >>> _ = amend(path, training_progress={"steps": 7})
        >>> open_checkpoint(path).progressive.steps
        7
    """
    directory = real_path(path)
    file = directory / PROGRESSIVE
    require_amendable(directory)
    with only_writer(directory) as temporary:
        # Read again here: whoever held the lock before may have changed it.
        known = read_progressive(file) if file.exists() else open_checkpoint(directory).progressive
        copies = {} if known.manifest is None else missing_copies(directory)
        amended = with_copies(known.with_fields(**fields), directory)
        put_copies(directory, copies, temporary)
        write_progressive(temporary / PROGRESSIVE, amended)
        sync_tree(temporary)
        (temporary / PROGRESSIVE).replace(file)
        sync(directory)
    return amended


def require_amendable(path: str | Path) -> None:
    """Refuse a checkpoint whose metadata cannot be replaced, before any work is done for it.

    Raises:
        UsageError: its directory, or the one that it lies in, cannot be written, or somebody else is writing it.
    """
    directory = real_path(path)
    if not os.access(directory, os.W_OK):
        raise UsageError(
            directory, expected="a checkpoint that can be written", got="one that is read-only",
            remedy="Copy it to a place of your own, or change its permissions.",
        )  # fmt: skip
    with only_writer(directory):
        pass
