"""Training state of PyTorch in a checkpoint: an optimizer's moments, and the states of random generators."""

import io
import pickle
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tprog.errors import FormatError, ParameterError, UsageError
from tprog.layout import RNG_STATE
from tprog.parts import STEP, step_tensor
from tprog.paths import safe_file
from tprog.reader import Checkpoint, open_checkpoint
from tprog.source import LazyTensors
from tprog.tensorheader import TensorSpec
from tprog.torch import converted, load_part, named_tensors

_MAX_PICKLE = 64 << 20
_SAFE_TORCH = (2, 10)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module | Mapping[str, torch.Tensor]
) -> LazyTensors:
    """The state of an Adam-like optimizer as `exp_avg.<name>`, `exp_avg_sq.<name>` and `step`.

    Parameters that never had a gradient have no state, and are left out.

    Raises:
        ParameterError: a parameter of the optimizer is not in the model, or its state is not made of tensors.
    """
    named: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    for parameter, name in _names(optimizer, model).items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if slot == STEP:
                counts[name] = int(value)
            elif isinstance(value, torch.Tensor):
                named[f"{slot}.{name}"] = value
            else:
                raise ParameterError(
                    f"{slot}.{name}", expected="a tensor", got=type(value).__name__,
                    remedy="Only optimizers whose state is made of tensors can be saved.",
                )  # fmt: skip
    source = named_tensors(named)
    step = max(counts.values(), default=0)
    steps = {STEP: step} | {f"{STEP}.{name}": count for name, count in counts.items() if count != step}
    specs = {name: TensorSpec(step_tensor(0).dtype, ()) for name in steps} | dict(source.specs)
    return LazyTensors(specs, lambda name: step_tensor(steps[name]) if name in steps else source.tensor(name))


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    path: str | Path | Checkpoint,
    model: torch.nn.Module | None = None,
    *,
    strict: bool = True,
) -> torch.optim.Optimizer:
    """Put a checkpoint's moments and step count into an optimizer such as `torch.optim.AdamW`.

    Args:
        optimizer: built over the parameters of the checkpoint's model.
        path: a checkpoint, or where it lies.
        model: that model; not needed where the optimizer was built from `model.named_parameters()`.
        strict: whether parameters of either that the other does not know are an error.

    Returns:
        The optimizer; moments have the dtype and device of their parameters.

    Raises:
        ParameterError: names or shapes do not fit; every one is listed, and nothing has been changed.
        FormatError: the parameters' dtype cannot hold some moment; nothing has been changed.
        UsageError: the checkpoint has no optimizer state.
    """
    stored = load_part(path, "optimizer")
    slots: dict[str, dict[str, torch.Tensor]] = {}
    for full, tensor in stored.items():
        slot, _, name = full.partition(".")
        if slot != STEP:
            slots.setdefault(name, {})[slot] = tensor
    names = _names(optimizer, model)
    findings = [
        f"{slot}.{name} has shape {list(tensor.shape)}, the parameter {list(parameter.shape)}"
        for parameter, name in names.items()
        for slot, tensor in slots.get(name, {}).items()
        if tensor.shape != parameter.shape
    ]
    if strict:
        findings += [f"{name} has no state in the checkpoint" for name in names.values() if name not in slots]
        findings += [f"{name} is no parameter of the optimizer" for name in slots if name not in names.values()]
    if findings:
        raise ParameterError(
            type(optimizer).__name__,
            expected="the parameters of the checkpoint",
            got=f"{len(findings)} that do not fit",
            remedy="Build the optimizer over the checkpoint's model, or pass strict=False:",
            findings=findings,
        )
    step = stored.get(STEP, torch.zeros((), dtype=torch.int64))
    state: dict[int, dict[str, Any]] = {}
    for place, (parameter, name) in enumerate(names.items()):
        if name in slots and parameter.requires_grad:
            count = stored.get(f"{STEP}.{name}", step)
            state[place] = {STEP: count.to(torch.float32)} | {
                # A copy, because the optimizer writes to its moments in place.
                slot: converted(f"{slot}.{name}", tensor, dtype=parameter.dtype, copy=True)
                for slot, tensor in slots[name].items()
            }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return optimizer


def rng_state() -> dict[str, torch.Tensor]:
    """States of the random generators of torch (each device), numpy and Python, as tensors.

    Example:
        >>> state = rng_state()
        >>> first = torch.rand(1)
        >>> set_rng_state(state)
        >>> bool(torch.rand(1) == first)
        True
    """
    state = {"torch.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"torch.cuda.{number}": tensor for number, tensor in enumerate(torch.cuda.get_rng_state_all())}
    version, words, gauss = random.getstate()
    state["python"] = torch.tensor([version, *words], dtype=torch.int64)
    if gauss is not None:
        state["python.gauss"] = torch.tensor(gauss, dtype=torch.float64)
    _, keys, position, has_gauss, cached = np.random.get_state()
    state["numpy"] = torch.tensor([*map(int, keys), int(position), int(has_gauss)], dtype=torch.int64)
    state["numpy.gauss"] = torch.tensor(float(cached), dtype=torch.float64)
    return state


def set_rng_state(state: Mapping[str, torch.Tensor]) -> None:
    """Put random generators into the states that `rng_state` gave; those that are not named stay as they are."""
    if "torch.cpu" in state:
        torch.set_rng_state(state["torch.cpu"].clone())
    for name, tensor in state.items():
        if name.startswith("torch.cuda.") and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensor.clone(), int(name.rpartition(".")[2]))
    if "python" in state:
        version, *words = state["python"].tolist()
        gauss = state["python.gauss"].item() if "python.gauss" in state else None
        random.setstate((version, tuple(words), gauss))
    if "numpy" in state:
        *keys, position, has_gauss = state["numpy"].tolist()
        gauss = state["numpy.gauss"].item()
        np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, gauss))


def load_rng_state(path: str | Path | Checkpoint) -> dict[str, torch.Tensor]:
    """The random states a checkpoint was saved with, for `set_rng_state`.

    They are read from rng_state.safetensors; rng_state.pt only where that is missing, and then tensors only.

    Raises:
        UsageError: the checkpoint has none.
        FormatError: rng_state.pt holds anything but tensors by name; none of it has been run.
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    if "rng_state" in checkpoint.parts or not (checkpoint.path / RNG_STATE).exists():
        return {name: tensor.clone() for name, tensor in load_part(checkpoint, "rng_state").items()}
    return read_pickle(safe_file(checkpoint.path, RNG_STATE))


def pickled(state: Mapping[str, torch.Tensor]) -> bytes:
    """Tensors by name as `torch.save` writes them."""
    buffer = io.BytesIO()
    torch.save({name: tensor.clone() for name, tensor in state.items()}, buffer)
    return buffer.getvalue()


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name out of a file of `torch.save`, without running anything that is in it.

    Raises:
        FormatError: it is no such file, or holds anything else.
        UsageError: this PyTorch is too old to read a pickle safely.
    """

    def refuse(got: str) -> FormatError:
        return FormatError(path, expected="tensors by name", got=got, remedy="Do not use this file; remove it.")

    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < _SAFE_TORCH:
        raise UsageError(
            path, expected="PyTorch 2.10 or later, whose pickles are safe", got=torch.__version__,
            remedy="`pip install --upgrade torch`.",
        )  # fmt: skip
    if not path.is_file() or path.stat().st_size > _MAX_PICKLE:
        raise refuse("no regular file, or one too large")
    # Older files of torch.save are bare pickles, which newer releases of torch read with warnings only.
    if not zipfile.is_zipfile(path):
        raise refuse("no archive as torch.save writes it")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise refuse(str(error).partition("\n")[0][:200]) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise refuse("something else")
    return state


def _names(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module | Mapping[str, torch.Tensor] | None
) -> dict[torch.Tensor, str]:
    """Name of each parameter of an optimizer, in its own order."""
    known: dict[torch.Tensor, str] = {}
    if isinstance(model, torch.nn.Module):
        known = {parameter: name for name, parameter in model.named_parameters()}
    elif model is not None:
        known = {parameter: name for name, parameter in model.items()}
    names: dict[torch.Tensor, str] = {}
    for group in optimizer.param_groups:
        given = group.get("param_names", [None] * len(group["params"]))
        for parameter, name in zip(group["params"], given, strict=True):
            found = known.get(parameter, name)
            if found is None:
                shape = list(parameter.shape)
                raise ParameterError(
                    "optimizer", expected="parameters whose names are known", got=f"one of shape {shape}",
                    remedy="Pass the model, or build the optimizer from model.named_parameters().",
                )  # fmt: skip
            names[parameter] = found
    return names
