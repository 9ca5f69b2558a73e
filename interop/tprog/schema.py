"""progressive.json as pydantic models: what is known of a checkpoint's past, its plans and its files.

Every field but `format_version`, `model_family` and `current_size` is optional; unknown fields survive a round trip.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tprog.config import ModelConfig
from tprog.errors import FormatError
from tprog.jsonio import read_json, write_json
from tprog.sizes import SIZES, size_label

FORMAT_VERSION = "1.0.0"
"""Version of the format that is written. Files of a higher major version are refused."""

Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
# Bounds on lists keep a hostile file from turning into millions of findings.
Layers = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=65_536)]
ByLayer = Annotated[list[float], Field(max_length=65_536)]


_MOST_FILES = 16_384


def _few(files: object) -> object:
    # Field(max_length) alone counts a dict only after looking at every entry.
    if isinstance(files, dict) and len(files) > _MOST_FILES:
        raise ValueError(f"at most {_MOST_FILES} files are listed")
    return files


class _Record(BaseModel):
    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        strict=True,
        populate_by_name=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def to_json(self) -> dict[str, Any]:
        """The fields that were given, by their names in the file."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class CurrentSize(_Record):
    """Dimensions of the model as it is."""

    model_size: str = "custom"
    hidden_size: Size
    num_layers: Size
    num_heads: Size
    num_kv_heads: Size


class TrainingProgress(_Record):
    """How far training has come."""

    tokens_seen: Count = 0
    steps: Count = 0
    epochs: Annotated[float, Field(ge=0)] = 0.0
    best_loss: float | None = None


class Expansion(_Record):
    """One growth of the past.

    `plan` holds what is needed to tell the new entries from the old; `guarantee` what was promised of the function,
    and `measured_drift` what was seen. `tokens_after` counts the tokens trained on since. `optimizer` and `fisher`
    tell how the optimizer's state and the Fisher information were moved, where there were any, and
    `fisher_measured_on` on what that of the new entries was measured, where it was.
    """

    from_size: str
    to_size: str
    method: str
    tokens_after: Count = 0
    plan: dict[str, Any] | None = None
    guarantee: dict[str, Any] | None = None
    measured_drift: dict[str, Any] | None = None
    optimizer: str | None = None
    fisher: str | None = None
    fisher_measured_on: str | None = None


class RecommendedExpansion(_Record):
    """The growth that is advised next, and why."""

    next_size: str
    target_hidden_size: Size | None = None
    target_num_layers: Size | None = None
    target_num_heads: Size | None = None
    target_num_kv_heads: Size | None = None
    target_head_dim: Size | None = None
    target_intermediate_size: Size | None = None
    method: str | None = None
    layer_duplication_indices: Layers | None = None
    reason: str | None = None


class LayerAnalysis(_Record):
    """What is known of each layer's worth, and what it was measured on: `steps` tells which state of the model.

    `residual_norms` has one number more than there are layers: the last is behind the last layer.
    """

    importance_scores: ByLayer | None = None
    expendable_layers: Layers | None = None
    critical_layers: Layers | None = None
    method: str | None = None
    data: str | None = None
    tokens: Count | None = None
    steps: Count | None = None
    loss: float | None = None
    loss_when_skipped: ByLayer | None = None
    block_influence: ByLayer | None = None
    residual_norms: ByLayer | None = None
    fisher_mass: ByLayer | None = None


class EWCConfig(_Record):
    """Elastic weight consolidation: whether it is on, how strong, and what the Fisher information was measured on.

    `estimator` and `draws` tell how it was measured, `tokens` over how many, `data` on what; `unit` what a value is
    divided by, without which `lambda` means nothing; `tasks` how several were joined, and `constant` what their
    penalty is at the anchor, without lambda / 2.
    """

    enabled: bool = False
    lambda_: Annotated[float, Field(ge=0, alias="lambda")] = 1000.0
    fisher_samples: Count | None = None
    estimator: str | None = None
    unit: str | None = None
    draws: Size | None = None
    tokens: Count | None = None
    data: str | None = None
    tasks: str | None = None
    constant: Annotated[float, Field(ge=0)] | None = None


Row = Annotated[list[float | None], Field(max_length=4_096)]


class TaskLosses(_Record):
    """How much of earlier tasks is kept: `losses` has a row for each time and a column for each of `tasks`.

    In nats a token; null where a loss was not measured. With as many rows as tasks, row i was measured after task i.
    `untrained` has the losses before anything was learned.
    """

    tasks: Annotated[list[str], Field(max_length=4_096)]
    losses: Annotated[list[Row], Field(max_length=4_096)]
    untrained: Row | None = None
    average_loss: float | None = None
    backward_transfer: float | None = None
    forward_transfer: float | None = None
    forgetting: float | None = None


class FileRecord(_Record):
    """Length and hash of one file."""

    bytes: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Manifest(_Record):
    """The files of one save. Every weights file carries the same save id in its own metadata."""

    save_id: Annotated[str, Field(min_length=1)]
    files: Annotated[dict[str, FileRecord], BeforeValidator(_few), Field(max_length=_MOST_FILES)]


class Progressive(_Record):
    """The whole of progressive.json.

    Example:
        >>> from tprog.sizes import named_size
        >>> progressive = Progressive.of(named_size("3B"))
        >>> progressive.current_size.model_size, progressive.current_size.num_layers
        ('3B', 26)
    """

    format_version: Annotated[str, Field(pattern=r"^\d+(\.\d+){0,2}$")] = FORMAT_VERSION
    model_family: str
    current_size: CurrentSize
    base_model: str | None = None
    training_progress: TrainingProgress | None = None
    expansion_history: Annotated[list[Expansion], Field(max_length=4_096)] = Field(default_factory=list)
    recommended_expansion: RecommendedExpansion | None = None
    layer_analysis: LayerAnalysis | None = None
    ewc_config: EWCConfig | None = None
    task_losses: TaskLosses | None = None
    manifest: Manifest | None = None

    @classmethod
    def of(cls, config: ModelConfig) -> "Progressive":
        """Metadata of a model of which nothing else is known."""
        return cls(format_version=FORMAT_VERSION, model_family=config.family, current_size=_size_of(config))

    def describing(self, config: ModelConfig) -> Self:
        """The same metadata with the family and the size of another configuration."""
        known = _size_of(config).model_dump()
        size = CurrentSize.model_validate(self.current_size.to_json() | known)
        return self.model_copy(update={"model_family": config.family, "current_size": size})

    @property
    def steps(self) -> int:
        """Training steps so far."""
        return self.training_progress.steps if self.training_progress else 0

    def with_fields(self, **fields: Any) -> Self:
        """A copy with some fields replaced, checked; a field given None is left out.

        Raises:
            FormatError: a value does not fit its field.

        Example:
            >>> from tprog.sizes import named_size
            >>> Progressive.of(named_size("3B")).with_fields(training_progress={"steps": 7}).steps
            7
        """
        fields = {name: _plain(value) for name, value in fields.items()}
        left_out = {name for name, value in fields.items() if value is None}
        merged = {name: value for name, value in (self.to_json() | fields).items() if name not in left_out}
        return _validate(type(self), merged, "progressive.json")


def parse_progressive(data: Mapping[str, Any], where: object = "progressive.json") -> Progressive:
    """Metadata from parsed JSON; the earlier minimal schema is upgraded.

    Raises:
        FormatError: fields are missing or malformed (every one is listed), or the version is too high.

    Example:
        >>> parse_progressive({"format_version": "2.0", "model_family": "tritter"})
        Traceback (most recent call last):
        tprog.errors.FormatError: progressive.json: format_version: expected 1.x, got 2.0. ...
    """
    version = data.get("format_version")
    major = re.match(r"\d+", version) if isinstance(version, str) else None
    if major and int(major[0]) > int(FORMAT_VERSION.partition(".")[0]):
        raise FormatError(
            f"{where}: format_version",
            expected=f"{FORMAT_VERSION.partition('.')[0]}.x",
            got=str(version),
            remedy="It was written by a newer release: `pip install --upgrade tritter-jax`.",
        )
    if "format_version" not in data:
        data = {"format_version": None, **data}
    return _validate(Progressive, upgrade(data), where)


def read_progressive(path: Path) -> Progressive:
    """Read a progressive.json.

    Raises:
        FormatError: as `parse_progressive`, or the file is no JSON.
    """
    return parse_progressive(read_json(path), path)


def write_progressive(path: Path, progressive: Progressive) -> None:
    """Write a progressive.json."""
    write_json(path, progressive.to_json())


def json_schema() -> dict[str, Any]:
    """The JSON Schema of progressive.json; `python -m tprog.schema` prints it.

    Example:
        >>> json_schema()["required"]
        ['format_version', 'model_family', 'current_size']
    """
    schema = Progressive.model_json_schema(by_alias=True)
    # Read files must name their version, though a new object need not.
    schema["required"] = ["format_version", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def upgrade(data: Mapping[str, Any]) -> dict[str, Any]:
    """The earlier minimal schema in the names of the present one; what has no place in it is kept as it is.

    Example:
        >>> upgrade({"format_version": "1.0", "training_state": {"current_step": 5}})
        {'format_version': '1.0.0', 'training_progress': {'steps': 5}}
    """
    result = dict(data)
    for old, (new, names) in _RENAMED.items():
        block = result.get(old)
        if isinstance(block, Mapping) and new not in result:
            del result[old]
            result[new] = {names.get(name, name): value for name, value in block.items()}
    analysis = result.get("recommended_expansion")
    if isinstance(analysis, dict) and "layer_importance_scores" in analysis and "expansion_config" in data:
        result.setdefault("layer_analysis", {"importance_scores": analysis.pop("layer_importance_scores")})
        if "next_size" not in analysis:
            result["expansion_config"] = result.pop("recommended_expansion")
    size = result.get("current_size")
    if isinstance(size, dict) and "architecture" in data:
        size.setdefault("model_size", _label(size))
    if any(old in data for old in _RENAMED) and str(data.get("format_version")).count(".") == 1:
        result["format_version"] = f"{data['format_version']}.0"
    return result


_RENAMED: dict[str, tuple[str, dict[str, str]]] = {
    "architecture": ("current_size", {}),
    "training_state": ("training_progress", {"total_tokens_seen": "tokens_seen", "current_step": "steps"}),
    "expansion_config": ("recommended_expansion", {"recommended_next_size": "next_size"}),
    "ewc_fisher": ("ewc_config", {"stored": "enabled", "path": "fisher_path"}),
}


def _label(size: Mapping[str, Any]) -> str:
    names = ("hidden_size", "num_layers", "num_heads", "num_kv_heads")
    dimensions = tuple(size.get(name) for name in names)
    return next((label for label, known in SIZES.items() if known[:4] == dimensions), "custom")


def _size_of(config: ModelConfig) -> CurrentSize:
    return CurrentSize(
        model_size=size_label(config),
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
    )


def _plain(value: object) -> object:
    if isinstance(value, _Record):
        return value.to_json()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _reason(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "missing":
        return "missing"
    value = problem["input"]
    got = f"a {type(value).__name__} of {len(value)}" if isinstance(value, list | dict) else f"{value!r}"
    return f"{problem['msg']}, got {got}"


_SHOWN = 100

_T = TypeVar("_T", bound=_Record)


def _validate(kind: type[_T], data: Mapping[str, Any], where: object) -> _T:
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        findings = [
            f"{'.'.join(map(str, problem['loc']))}: {_reason(problem)}"[:300] for problem in problems[:_SHOWN]
        ]
        if len(problems) > _SHOWN:
            findings.append(f"and {len(problems) - _SHOWN} more")
        count = len(problems)
    raise FormatError(
        where,
        expected="the fields of progressive.json",
        got=f"{count} that do not fit",
        remedy="Mend these fields, or delete the file to open the directory with default metadata:",
        findings=findings,
    )


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
