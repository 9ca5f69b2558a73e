"""The run configuration: a TOML file, every field of which the command line can override."""

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from tprog import UsageError
from tprog.locate import source_path, tokenizer_path
from tprog.paths import user_path

from tritter_jax.train.toml import override, read_toml, toml_value


def _axis(size: int) -> int:
    if size < 1 and size != -1:
        raise ValueError("a number of devices, or -1 for those that are left")
    return size


Positive = Annotated[int, Field(ge=1, lt=1 << 31)]
NotNegative = Annotated[int, Field(ge=0, lt=1 << 31)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
Axis = Annotated[int, AfterValidator(_axis)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]

STRONGEST = 1e30
"""Largest lambda: far from where float32 ends, far beyond what holds a weight where it is."""
OWN = "checkpoint"
"""Names the tokenizer of the checkpoint that is trained on."""
IN_RUN = "run:"
"""Begins a path that lies in the run directory."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class ModelSection(_Section):
    """What is trained: one of a named size, a config.json, or a checkpoint to go on from.

    A path that begins with `run:` lies in the run directory; the checkpoint may also be `org/name` on the Hub.
    """

    size: str | None = None
    config: str | None = None
    checkpoint: str | None = None
    vocab_size: Positive | None = None
    name: str = "tritter"


class DataSection(_Section):
    """What it is trained on: one or several of what `--data` takes, and the share of it that is held out.

    `tokenizer` is `bytes`, `checkpoint` (the one of the checkpoint that is trained on), a tokenizer.json, a directory
    that holds one, or `org/name` on the Hub; by default the checkpoint's, and bytes for a new model. `special_tokens`
    says where BOS and EOS go: a key of `tritter_jax.data.tokenizer.SPECIAL`.
    """

    train: str | Annotated[list[str], Field(min_length=1)] = "builtin:prose"
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    tokenizer: str | None = None
    special_tokens: str = "transformers"
    sequence_length: Annotated[int, Field(ge=2, lt=1 << 31)] = 256
    batch_size: Positive = 8
    seed: Seed = 0
    cache: str | None = None


class OptimizerSection(_Section):
    """The optimizer; `clip` is the largest global norm of the gradient, 0 for none.

    `learning_rate` is the schedule's peak. Left out, it is 1e-3 from scratch, and from a checkpoint what its own run
    ended with, or 1e-4 where that is not known.
    """

    name: str = "adamw"
    learning_rate: Rate | None = None
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Rate = 0.1
    clip: Rate = 1.0

    @property
    def peak(self) -> float:
        """The learning rate that the schedule rises to; without one, that of a run from scratch."""
        return 1e-3 if self.learning_rate is None else self.learning_rate


class ScheduleSection(_Section):
    """The learning rate's course; lengths in steps, `final` as a fraction of the peak."""

    name: str = "warmup-cosine"
    warmup: NotNegative = 20
    decay: NotNegative | None = None
    final: Annotated[float, Field(ge=0, le=1)] = 0.1


class TrainingSection(_Section):
    """Length and arithmetic of the run; `remat` is a key of `tritter_jax.model.REMAT`.

    `keep_memory` keeps memory that a step frees for the next one, on CPUs: faster, and more is held.
    """

    steps: Positive = 200
    accumulate: Positive = 1
    compute_dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    remat: str = "dots"
    keep_memory: bool = True
    seed: Seed = 0


class EwcSection(_Section):
    """Elastic weight consolidation: holds on to what the checkpoint that is gone on from has Fisher information of.

    `lambda` weighs the penalty, 0 for none; `form` is a key of `tritter_jax.continual.FORMS`.
    """

    model_config = ConfigDict(populate_by_name=True)

    lambda_: Annotated[Rate, Field(alias="lambda", le=STRONGEST)] = 0.0
    form: str = "proximal"


class MeshSection(_Section):
    """Devices along each mesh axis, and changes to the sharding rules (`none` for no axis).

    One of the axes may be -1: as many devices as the others leave.
    """

    data: Axis = 1
    fsdp: Axis = 1
    tensor: Axis = 1
    rules: dict[str, str] = Field(default_factory=dict)

    @property
    def named(self) -> int:
        """Number of devices that the axes name, one of -1 left out."""
        return math.prod(size for size in (self.data, self.fsdp, self.tensor) if size != -1)


class MachineSection(_Section):
    """The TPU that a configuration is made for: `tritter train` refuses other devices. None or empty takes any.

    `tritter tpu check` compiles `program` for it: the training step, the growth from `grow_from` (a named size or a
    config.json) to the model, or a step of the Fisher information.
    """

    topology: str | None = None
    slices: Positive = 1
    program: Literal["train", "grow", "fisher"] = "train"
    grow_from: str | None = None


class OutputSection(_Section):
    """Where results go and how often; intervals in steps, 0 for never.

    `checkpoints` is where the run's own checkpoints lie: in the run directory, or a directory or `gs://bucket/path`.
    """

    directory: Annotated[str, Field(min_length=1)] = "runs/run"
    checkpoints: str | None = None
    log_interval: Positive = 10
    eval_interval: NotNegative = 100
    eval_batches: Positive = 20
    checkpoint_interval: NotNegative = 100
    keep_last: Positive = 2
    keep_best: NotNegative = 1


class RunConfig(_Section):
    """One training run.

    Example:
        >>> RunConfig.parse({"training": {"steps": 50}}, ["optimizer.learning_rate=3e-4"]).training.steps
        50
    """

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    training: TrainingSection = TrainingSection()
    ewc: EwcSection = EwcSection()
    mesh: MeshSection = MeshSection()
    machine: MachineSection = MachineSection()
    output: OutputSection = OutputSection()

    @classmethod
    def load(
        cls, path: Path, overrides: Sequence[str] = (), fields: Mapping[str, Mapping[str, Any]] | None = None
    ) -> "RunConfig":
        """Read a TOML file, then apply overrides such as `training.steps=50`, and fields by section.

        Raises:
            UsageError: the file is missing or no TOML, a field is unknown or breaks its rule; all are listed.
        """
        return cls.parse(read_toml(path), overrides, fields, where=path)

    @classmethod
    def parse(
        cls,
        data: dict[str, Any],
        overrides: Sequence[str] = (),
        fields: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        where: object = "run",
    ) -> "RunConfig":
        """Validate parsed TOML with overrides and fields applied.

        Raises:
            UsageError: as for `load`.
        """
        for change in overrides:
            data = override(data, change)
        for section, values in (fields or {}).items():
            inner = data.get(section)
            data = data | {section: (inner if isinstance(inner, dict) else {}) | dict(values)}
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            findings = [_finding(problem) for problem in error.errors(include_url=False)]
        raise UsageError(
            where,
            expected="fields of a run configuration",
            got=findings[0],
            remedy="Correct the fields named.",
            findings=findings[1:],
        )

    def portable(self) -> dict[str, Any]:
        """The settings as JSON, without the places of model, tokenizer, cache and results on this machine."""
        left_out = {
            "model": {"size", "config", "checkpoint"}, "data": {"tokenizer", "cache"},
            "output": {"directory", "checkpoints"},
        }  # fmt: skip
        return self.model_dump(mode="json", exclude_none=True, by_alias=True, exclude=left_out)

    def path(self, text: str) -> Path:
        """A path of the configuration; one that begins with `run:` lies in the run directory."""
        if text.startswith(IN_RUN):
            return self.directory / text.removeprefix(IN_RUN)
        return user_path(text)

    def source(self, text: str) -> Path:
        """A checkpoint of the configuration: a path, or a size or `org/name` as every command takes it.

        Raises:
            UsageError: there is none of these, or the Hub does not give it.
        """
        return self.path(text) if text.startswith(IN_RUN) else source_path(text)

    def tokenizer(self) -> Path:
        """Where the tokenizer that `data.tokenizer` names lies, where it is not the bytes.

        Raises:
            UsageError: there is none, or the Hub does not give it.
        """
        text = self.data.tokenizer
        assert text is not None
        return self.path(text) if text.startswith(IN_RUN) else tokenizer_path(text)

    @property
    def directory(self) -> Path:
        """The run directory."""
        return user_path(self.output.directory)

    def to_toml(self) -> str:
        """The configuration with every field spelled out, as TOML that `load` reads back."""
        lines: list[str] = []
        for section, fields in self.model_dump(exclude_none=True, by_alias=True).items():
            tables = {name: value for name, value in fields.items() if isinstance(value, dict)}
            lines += [f"[{section}]"]
            lines += [f"{name} = {toml_value(value)}" for name, value in fields.items() if name not in tables]
            for name, table in tables.items():
                lines += [f"[{section}.{name}]", *(f"{key} = {toml_value(value)}" for key, value in table.items())]
            lines.append("")
        return "\n".join(lines)


def _finding(problem: Any) -> str:
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        section = RunConfig.model_fields.get(str(problem["loc"][0]))
        kind: Any = section.annotation if section is not None and len(problem["loc"]) > 1 else RunConfig
        names = [field.alias or name for name, field in kind.model_fields.items()]
        near = difflib.get_close_matches(str(problem["loc"][-1]), names, n=1)
        return f"{place} is no field" + (f" (did you mean {near[0]}?)" if near else "")
    return f"{place}: {problem['msg']}, got {problem['input']!r}"
