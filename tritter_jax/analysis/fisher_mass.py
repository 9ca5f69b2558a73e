"""How the Fisher information of a checkpoint is spread over its layers and the blocks in them."""

from collections import defaultdict

import numpy as np
from tprog import ModelConfig
from tprog.hf_names import hf_tensors
from tprog.reader import Checkpoint


def fisher_mass(checkpoint: Checkpoint) -> dict[str, list[float]] | None:
    """Sums of the stored Fisher information by block and layer; None where the checkpoint has none.

    Read tensor by tensor, so that no more than one is in memory.

    Returns:
        For each block of a layer (`attention`, `mlp`, ...; norms of their own stand under their own name) a number a
        layer.

    Raises:
        FormatError: the part is broken, or does not fit the model.
    """
    if "fisher" not in checkpoint.parts:
        return None
    part = checkpoint.part("fisher")
    config: ModelConfig = checkpoint.config
    mass: dict[str, list[float]] = defaultdict(lambda: [0.0] * config.num_layers)
    for tensor in hf_tensors(config):
        if tensor.layer is not None and tensor.name in part.specs:
            found = float(np.sum(np.asarray(part.tensor(tensor.name)), dtype=np.float64))
            mass[tensor.spec.path[1]][tensor.layer] += found
    return dict(mass)


def mass_by_layer(mass: dict[str, list[float]]) -> list[float]:
    """The sum over blocks.

    Example:
        >>> mass_by_layer({"attention": [1.0, 2.0], "mlp": [0.5, 0.25]})
        [1.5, 2.25]
    """
    return [sum(column) for column in zip(*mass.values(), strict=True)]
