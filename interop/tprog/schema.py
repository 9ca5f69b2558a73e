"""progressive.json as pydantic models: what is known of a checkpoint's past, its plans and its files.

Every field but `format_version`, `model_family` and `current_size` is optional; unknown fields survive a round trip.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field

from tprog.config import ModelConfig
from tprog.errors import FormatError
from tprog.jsonio import read_json, write_json
from tprog.records import Record, plain, validated
from tprog.sizes import size_label
from tprog.upgrade import upgrade

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


class CurrentSize(Record):
    """Dimensions of the model as it is."""

    model_size: str = "custom"
    hidden_size: Size
    num_layers: Size
    num_heads: Size
    num_kv_heads: Size


class TrainingProgress(Record):
    """How far training has come."""

    tokens_seen: Count = 0
    steps: Count = 0
    epochs: Annotated[float, Field(ge=0)] = 0.0
    best_loss: float | None = None


class Expansion(Record):
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

    @property
    def exact(self) -> bool | None:
        """Whether the function was promised to be kept exactly; None where nothing was said."""
        said = (self.guarantee or {}).get("exact")
        return said if isinstance(said, bool) else None

    @property
    def drift(self) -> float | None:
        """Largest relative difference of the logits; None where it was not measured."""
        return self.measured("max_relative")

    def measured(self, name: str) -> float | None:
        """One number of `measured_drift`; None where it was not measured."""
        found = (self.measured_drift or {}).get(name)
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None

    @property
    def described_drift(self) -> str:
        """What was measured, in a few words; empty where nothing was."""
        forms = {"max_relative": "{:.1e}", "kl": "KL {:.1e}", "agreement": "the same most likely token at {:.0%}"}
        known = ((form, self.measured(name)) for name, form in forms.items())
        return ", ".join(form.format(number) for form, number in known if number is not None)

    @property
    def new_layers(self) -> list[int]:
        """The layers that were new in the grown model; empty where the plan names none."""
        found = (self.plan or {}).get("new_layers")
        known = found if isinstance(found, list) else []
        return [layer for layer in known if isinstance(layer, int) and not isinstance(layer, bool)]


class RecommendedExpansion(Record):
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


class LayerAnalysis(Record):
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


class EWCConfig(Record):
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


class TaskLosses(Record):
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


class FileRecord(Record):
    """Length and hash of one file."""

    bytes: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Manifest(Record):
    """The files of one save. Every weights file carries the same save id in its own metadata."""

    save_id: Annotated[str, Field(min_length=1)]
    files: Annotated[dict[str, FileRecord], BeforeValidator(_few), Field(max_length=_MOST_FILES)]


class Progressive(Record):
    """The whole of progressive.json.

    Example:
        >>> from tprog.sizes import named_size
        >>> progressive = Progressive.of(named_size("3B"))
        >>> progressive.current_size.model_size, progressive.current_size.num_layers
        ('3B', 26)
    """

    format_version: Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,2}$")] = FORMAT_VERSION
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
        fields = {name: plain(value) for name, value in fields.items()}
        left_out = {name for name, value in fields.items() if value is None}
        merged = {name: value for name, value in (self.to_json() | fields).items() if name not in left_out}
        return validated(type(self), merged, "progressive.json")


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
    major = re.match(r"0*([1-9]\d*)", version, re.ASCII) if isinstance(version, str) else None
    if major and (len(major[1]) > 9 or int(major[1]) > int(FORMAT_VERSION.partition(".")[0])):
        raise FormatError(
            f"{where}: format_version",
            expected=f"{FORMAT_VERSION.partition('.')[0]}.x",
            got=str(version),
            remedy="It was written by a newer release: `pip install --upgrade tritter-jax`.",
        )
    if "format_version" not in data:
        data = {"format_version": None, **data}
    return validated(Progressive, upgrade(data), where)


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


def _size_of(config: ModelConfig) -> CurrentSize:
    return CurrentSize(
        model_size=size_label(config),
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
    )


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
