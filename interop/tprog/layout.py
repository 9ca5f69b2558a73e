"""Names of the files in a checkpoint directory, and the name of the directory itself."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tprog.errors import FormatError, UsageError
from tprog.jsonio import read_json
from tprog.paths import model_name
from tprog.upgrade import upgrade

CONFIG = "config.json"
PROGRESSIVE = "progressive.json"
WEIGHTS = "weights.safetensors"
INDEX = "model.safetensors.index.json"
HOOKS = "expansion_hooks.py"
TOKENIZER = "tokenizer"
TRAINING = "training"
EWC = "ewc"
PLOTS = "plots"
CHAT_TEMPLATES = "additional_chat_templates"
SUBDIRECTORIES = (TOKENIZER, TRAINING, EWC, PLOTS, CHAT_TEMPLATES)
CARD = "README.md"

SHARD_SIZE = 5 * 10**9
"""Largest weights file, in bytes, where the caller names none; a tensor is never split."""

SAVE_ID = "save_id"
"""Name under which a weights file's metadata holds the id of the save it belongs to."""

TENSOR_PARTS = {
    "optimizer": "training/optimizer",
    "rng_state": "training/rng_state",
    "fisher": "ewc/fisher",
    "old_params": "ewc/old_params",
}
"""Where the tensors of each optional part lie, without their ending."""
JSON_PARTS = {"scheduler": "training/scheduler.json", "data_state": "training/data_state.json"}
"""Where the optional parts that are JSON lie."""
RNG_STATE = "training/rng_state.pt"

HF_WEIGHTS = "model.safetensors"
ORBAX_PARAMS = "params"
ORBAX_MARKER = "_CHECKPOINT_METADATA"
GENERATION_CONFIG = "generation_config.json"
SPECIAL_TOKENS = "special_tokens.json"
HF_SPECIAL_TOKENS = "special_tokens_map.json"
TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    TOKENIZER_JSON,
    SPECIAL_TOKENS,
    HF_SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    "tokenizer.model",
    "tekken.json",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Every file name a tokenizer may consist of, ours and the ones of Hugging Face directories; `is_tokenizer_file`."""

_NAME = re.compile(r"(?P<model>.+)-(?P<size>[^-]+)-(?P<step>\d+)\.tprog")


def is_tokenizer_file(name: str) -> bool:
    """Whether a tokenizer may have a file of that name, relative to its folder: named chat templates lie in one.

    Example:
        >>> is_tokenizer_file("tokenizer.json"), is_tokenizer_file("additional_chat_templates/tool_use.jinja")
        (True, True)
    """
    folder, _, leaf = name.rpartition("/")
    return name in TOKENIZER_FILES or (folder == CHAT_TEMPLATES and leaf.endswith(".jinja"))


def shard_names(stem: str, count: int) -> list[str]:
    """File names of a set of tensors that lies in `count` files.

    Example:
        >>> shard_names("weights", 1), shard_names("weights", 2)[1]
        (['weights.safetensors'], 'weights-00002-of-00002.safetensors')
    """
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


@dataclass(frozen=True, kw_only=True)
class CheckpointName:
    """The three parts of `{model}-{size}-{step}.tprog`.

    Example:
        >>> CheckpointName.parse("runs/poet-large-3B-1000.tprog")
        CheckpointName(model='poet-large', size='3B', step=1000)
        >>> str(CheckpointName(model="poet", size="7B", step=0))
        'poet-7B-0.tprog'
    """

    model: str
    size: str
    step: int

    def __str__(self) -> str:
        return f"{self.model}-{self.size}-{self.step}.tprog"

    @classmethod
    def parse(cls, path: str | Path) -> "CheckpointName | None":
        """The parts of a directory's name, or None where it does not have that form."""
        match = _NAME.fullmatch(Path(path).name)
        if match is None:
            return None
        return cls(model=match["model"], size=match["size"], step=int(match["step"]))


def default_name(source: str | Path, size: str, step: int) -> str:
    """Directory name of what is made from `source`: its model name, or its own name where it has no parts.

    Example:
        >>> default_name("poet-3B-1000.tprog", "7B", 1000), default_name("models/llama.hf", "7B", 0)
        ('poet-7B-1000.tprog', 'llama.hf-7B-0.tprog')
    """
    path = Path(source)
    name = model_name(path).rpartition("/")[2]
    parts = CheckpointName.parse(name)
    model = parts.model if parts else name.removesuffix(".tprog") or "model"
    return str(CheckpointName(model=model, size=size, step=step))


def newest(size: str | None = None, directory: str | Path = ".") -> Path:
    """The `*-{size}-*.tprog` in a directory that has come furthest, as `progress` tells.

    The time at which a directory was changed says nothing of that: metadata are amended, and files copied.

    Args:
        size: the size in its name; any where None.
        directory: where to look.

    Raises:
        UsageError: there is none.

    Example:
        >>> import pathlib, tempfile
        >>> root = pathlib.Path(tempfile.mkdtemp()); (root / "poet-3B-20.tprog").mkdir()
        >>> newest("3b", root).name
        'poet-3B-20.tprog'
    """
    named = _named(Path(directory))
    found = [(path, name) for path, name in named if size is None or name.size.lower() == size.lower()]
    if not found:
        raise UsageError(
            size or directory,
            expected=f"a directory *-{size or '*'}-*.tprog in {Path(directory).resolve()}",
            got="none",
            remedy="Give the path of a checkpoint, or make one with `tritter init` or `tritter import`.",
        )
    return max((path for path, _ in found), key=progress)


def progress(path: Path) -> tuple[int, int, int, str]:
    """How far a checkpoint has come: training steps recorded in its metadata, then growths, then when it was changed,
    then its name. Where the metadata cannot be read, the step is that of its name.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "poet-3B-20.tprog"); path.mkdir()
        >>> progress(path)[:2]
        (20, 0)
    """
    name = CheckpointName.parse(path)
    step, growths = 0 if name is None else name.step, 0
    with suppress(FormatError):
        known = upgrade(read_json(path / PROGRESSIVE))
        trained, history = known.get("training_progress"), known.get("expansion_history")
        recorded = trained.get("steps") if isinstance(trained, Mapping) else None
        step = recorded if isinstance(recorded, int) else step
        growths = len(history) if isinstance(history, list) else 0
    return step, growths, path.stat().st_mtime_ns, path.name


def _named(directory: Path) -> Iterable[tuple[Path, CheckpointName]]:
    for path in directory.glob("*.tprog"):
        name = CheckpointName.parse(path)
        if name is not None and not path.name.startswith(".") and path.is_dir():
            yield path, name
