"""expansion_hooks.py: code that a checkpoint brings along, which runs only when its reader says so."""

import ast
import hashlib
import types
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tprog.errors import UsageError
from tprog.layout import HOOKS, PROGRESSIVE
from tprog.paths import safe_file
from tprog.reader import Checkpoint, open_checkpoint

MAX_HOOKS_BYTES = 1 << 20
"""Longest file of hooks that is read."""


@dataclass(frozen=True)
class Hooks:
    """A checkpoint's hooks, read but not run.

    Args:
        path: the file.
        sha256: its hash.
        recorded: the hash that progressive.json has on record, if any.
        source: its text.
        defines: functions and classes at its top level.
        imports: modules it imports, anywhere.
    """

    path: Path
    sha256: str
    recorded: str | None
    source: bytes
    defines: tuple[str, ...]
    imports: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What the file contains, in one line."""
        parts = [f"{len(self.source)} bytes of Python"]
        parts += [f"defining {', '.join(self.defines)}"] if self.defines else []
        parts += [f"importing {', '.join(self.imports)}"] if self.imports else []
        return ", ".join(parts)


def find_hooks(path: str | Path | Checkpoint) -> Hooks | None:
    """What a checkpoint's expansion_hooks.py contains; None where it has none. Nothing of it is run.

    Raises:
        UsageError: the file is too large, or no Python.
        FormatError: it is a link that leads out of the directory.
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path)
    if not (checkpoint.path / HOOKS).is_file():
        return None
    file = safe_file(checkpoint.path, HOOKS)
    if file.stat().st_size > MAX_HOOKS_BYTES:
        _refuse(file, f"at most {MAX_HOOKS_BYTES} bytes", f"{file.stat().st_size}")
    source = file.read_bytes()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        _refuse(file, "Python", str(error))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imports |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    manifest = checkpoint.progressive.manifest
    record = manifest.files.get(HOOKS) if manifest else None
    return Hooks(
        path=file,
        sha256=hashlib.sha256(source).hexdigest(),
        recorded=record.sha256 if record else None,
        source=source,
        defines=tuple(node.name for node in tree.body if isinstance(node, kinds)),
        imports=tuple(sorted(imports)),
    )


def run_hooks(path: str | Path | Checkpoint, *, trust: bool = False) -> types.ModuleType | None:
    """Run a checkpoint's expansion_hooks.py as a module; None where it has none.

    Args:
        path: a checkpoint, or where it lies.
        trust: whether the caller vouches for the file (`--trust-hooks`).

    Raises:
        UsageError: the file is not trusted, or is not the one that progressive.json has on record.
    """
    hooks = find_hooks(path)
    if hooks is None:
        return None
    if hooks.recorded != hooks.sha256:
        raise UsageError(
            hooks.path,
            expected=f"the file that {PROGRESSIVE} has on record",
            got=f"another ({hooks.sha256[:16]}…, on record is {(hooks.recorded or 'none')[:16]})",
            remedy="It was changed after the save: remove it, or fetch the checkpoint anew.",
        )
    if not trust:
        raise UsageError(
            hooks.path,
            expected="your leave to run it",
            got=hooks.summary,
            remedy="Read the file; if you trust it, pass --trust-hooks. Code in it can do whatever you can.",
        )
    module = types.ModuleType("expansion_hooks")
    module.__file__ = str(hooks.path)
    # The text that was hashed is what runs, not the file, which could have changed since.
    exec(compile(hooks.source, str(hooks.path), "exec"), module.__dict__)
    return module


def _refuse(path: Path, expected: str, got: str) -> NoReturn:
    raise UsageError(path, expected=expected, got=got, remedy="Remove the file: the model is whole without it.")
