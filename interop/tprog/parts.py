"""The optional parts of a checkpoint: optimizer, scheduler, random and data state, Fisher, anchor and hooks."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tprog.config import ModelConfig
from tprog.errors import FormatError, ParameterError
from tprog.hf_names import hf_tensors, most_names
from tprog.jsonio import read_json
from tprog.layout import HOOKS, JSON_PARTS, RNG_STATE, SAVE_ID, TENSOR_PARTS
from tprog.paths import safe_file
from tprog.schema import Progressive
from tprog.source import TensorSource, named_source
from tprog.tensorheader import TensorSpec
from tprog.weights import TensorSet, find_part

STEP = "step"
"""Name of the tensor that counts an optimizer's steps; `step.<name>` where one parameter's count differs."""
MINIMAL_FISHER = "fisher_path"
"""Field of ewc_config where files of the earlier minimal schema name their Fisher information."""

NamedTensors = TensorSource | Mapping[str, Any]
"""A source, or arrays by name."""

_COUNTS = np.dtype("int64")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a checkpoint may hold beside weights, configuration and metadata; each is written where it is given.

    Args:
        optimizer: `exp_avg.<name>`, `exp_avg_sq.<name>` for each Hugging Face name, and `step`.
        rng_state: states of random generators, by name.
        fisher: diagonal of the Fisher information, by Hugging Face name.
        old_params: the weights that elastic weight consolidation holds on to, by Hugging Face name.
        scheduler: state of the learning-rate schedule, as JSON.
        data_state: place in the training data, as JSON.
        rng_pickle: the same random states as `torch.save` writes them.
        hooks: text of expansion_hooks.py; it never runs unless the caller trusts it.

    Example:
        >>> Parts(scheduler={"warmup": 100}).given
        ('scheduler',)
    """

    optimizer: NamedTensors | None = None
    rng_state: NamedTensors | None = None
    fisher: NamedTensors | None = None
    old_params: NamedTensors | None = None
    scheduler: Mapping[str, Any] | None = None
    data_state: Mapping[str, Any] | None = None
    rng_pickle: bytes | None = None
    hooks: bytes | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the parts that are there."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    @property
    def tensors(self) -> dict[str, TensorSource]:
        """The parts that are tensors, by name."""
        return {name: named_source(getattr(self, name)) for name in TENSOR_PARTS if name in self.given}

    @property
    def json(self) -> dict[str, Mapping[str, Any]]:
        """The parts that are JSON, by name."""
        return {name: getattr(self, name) for name in JSON_PARTS if name in self.given}

    @property
    def bytes(self) -> dict[str, bytes]:
        """The parts that are single files, by path."""
        files = {RNG_STATE: self.rng_pickle, HOOKS: self.hooks}
        return {path: data for path, data in files.items() if data is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for part in self.tensors.values() for spec in part.specs.values())

    def check(self, config: ModelConfig) -> None:
        """Hold names and shapes against the parameter table, and JSON against JSON.

        Raises:
            ParameterError: some do not fit; every one is listed.
        """
        findings = [line for name, part in self.tensors.items() for line in misfits(name, part.specs, config)]
        for name, value in self.json.items():
            try:
                json.dumps(dict(value), allow_nan=False)
            except (TypeError, ValueError) as error:
                findings.append(f"{name} cannot be written as JSON: {error}")
        if findings:
            raise ParameterError(
                "checkpoint parts",
                expected=f"tensors named and shaped as those of a {config.family} model",
                got=f"{len(findings)} that are not",
                remedy="Give the configuration they belong to, or mend them:",
                findings=findings,
            )


def present_parts(directory: Path, progressive: Progressive) -> tuple[str, ...]:
    """Names of the parts whose files are there, whatever is in them."""
    endings = (".safetensors", ".safetensors.index.json")
    names = [
        part for part, stem in TENSOR_PARTS.items() if any((directory / f"{stem}{end}").exists() for end in endings)
    ]
    if "fisher" not in names and (directory / _minimal_fisher_name(progressive)).is_file():
        names.append("fisher")
    names += [part for part, file in JSON_PARTS.items() if (directory / file).exists()]
    names += [part for part, file in (("rng_pickle", RNG_STATE), ("hooks", HOOKS)) if (directory / file).exists()]
    return tuple(names)


def read_tensors(directory: Path, part: str, config: ModelConfig, progressive: Progressive) -> TensorSet | None:
    """Open one of the parts that are tensors; None where the checkpoint has none.

    Raises:
        FormatError: a file is broken or of another save, or names or shapes do not fit; every finding is listed.
    """
    found = find_part(directory, TENSOR_PARTS[part], most=most_names(config))
    if found is None and part == "fisher":
        found = _minimal_fisher(directory, progressive)
    if found is None:
        return None
    findings = [*found.findings, *misfits(part, found.specs, config)]
    if progressive.manifest is not None:
        due = progressive.manifest.save_id
        saves = {name: file.header.metadata.get(SAVE_ID) for name, file in found.files.items()}
        findings += [f"{name} belongs to save {got}, not {due}" for name, got in saves.items() if got != due]
    if findings:
        raise FormatError(
            directory / TENSOR_PARTS[part],
            expected=f"the {part} of this checkpoint",
            got=f"{len(findings)} things that do not fit",
            remedy="Remove this part, or fetch it anew:",
            findings=findings,
        )
    return found


def read_json_part(directory: Path, part: str) -> dict[str, Any] | None:
    """Read one of the parts that are JSON; None where the checkpoint has none.

    Raises:
        FormatError: the file is no JSON object, or a link that leads out of the directory.
    """
    path = directory / JSON_PARTS[part]
    return read_json(safe_file(directory, JSON_PARTS[part])) if path.exists() else None


def misfits(part: str, specs: Mapping[str, TensorSpec], config: ModelConfig) -> list[str]:
    """What does not fit the parameter table in one part, a line each."""
    if part == "rng_state":
        return []
    shapes = {tensor.name: tensor.shape for tensor in hf_tensors(config)}
    judge: Callable[[str, TensorSpec, Mapping[str, tuple[int, ...]]], str | None]
    judge = _optimizer_misfit if part == "optimizer" else _weight_misfit
    lines = [judge(name, spec, shapes) for name, spec in specs.items()]
    return [f"{part}: {line}" for line in lines if line is not None]


def step_tensor(step: int) -> np.ndarray:
    """A count of steps as it is stored."""
    return np.asarray(step, _COUNTS)


def _weight_misfit(name: str, spec: TensorSpec, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    if name not in shapes:
        return f"{name} is unknown; it has shape {list(spec.shape)}"
    if spec.shape != shapes[name]:
        return f"{name} has shape {list(spec.shape)}, expected {list(shapes[name])}"
    return None


def _optimizer_misfit(name: str, spec: TensorSpec, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    slot, _, tensor = name.partition(".")
    if slot == STEP:
        known = not tensor or tensor in shapes
        if known and spec.dtype.kind in "iu" and spec.shape == ():
            return None
        return f"{name} is {spec.dtype.name} {list(spec.shape)}, expected one whole number"
    if slot.startswith("exp_avg"):
        misfit = _weight_misfit(tensor, spec, shapes)
        return misfit and f"{slot}.{misfit}"
    return None


def _minimal_fisher_name(progressive: Progressive) -> str:
    extra = (progressive.ewc_config.model_extra if progressive.ewc_config else None) or {}
    name = extra.get(MINIMAL_FISHER)
    return name if isinstance(name, str) and name.endswith(".safetensors") else ""


def _minimal_fisher(directory: Path, progressive: Progressive) -> TensorSet | None:
    name = _minimal_fisher_name(progressive)
    if not name:
        return None
    path = safe_file(directory, name).relative_to(directory).as_posix()
    return find_part(directory, path.removesuffix(".safetensors"))
