"""Nested dicts of parameters: to paths and back, and held against the parameter table."""

from collections.abc import Mapping
from typing import Any

from tprog.config import ModelConfig
from tprog.errors import ParameterError
from tprog.params import Path, param_specs


def nest(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """A nested dict from a mapping of paths.

    Example:
        >>> nest({("layers", "mlp", "up"): 1, ("norm",): 2})
        {'layers': {'mlp': {'up': 1}}, 'norm': 2}
    """
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def flatten(tree: Mapping[str, Any]) -> dict[Path, Any]:
    """The inverse of `nest`: every leaf of a nested dict by its path."""
    flat: dict[Path, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update({(key, *path): leaf for path, leaf in flatten(value).items()})
        else:
            flat[(key,)] = value
    return flat


def check_tree(tree: Any, config: ModelConfig, *, where: object = "params") -> None:
    """Hold a tree of arrays (or abstract shapes) against the table; every mismatch is reported at once.

    Raises:
        ParameterError: it is no nested dict of arrays, or parameters are missing, unknown, or of another shape.

    Example:
        >>> from tprog.sizes import named_size
        >>> check_tree({}, named_size("test"))
        Traceback (most recent call last):
        tprog.errors.ParameterError: params: expected 12 parameters of a tritter model, got 12 that do not fit...
    """
    if not isinstance(tree, Mapping):
        raise ParameterError(
            where, expected="a nested dict of arrays, layers stacked on axis 0", got=type(tree).__name__,
            remedy="Pass the tree that `tprog.params` describes.",
        )  # fmt: skip
    flat = flatten(tree)
    odd = {path: leaf for path, leaf in flat.items() if not hasattr(leaf, "shape")}
    if odd:
        path, leaf = next(iter(odd.items()))
        raise ParameterError(
            f"{where}: {'.'.join(map(str, path))}", expected="an array, the layers of a model stacked on its axis 0",
            got=type(leaf).__name__,
            remedy="Stack a list of layers: jax.tree.map(lambda *each: jnp.stack(each), *layers).",
        )  # fmt: skip
    shapes = {".".join(map(str, path)): tuple(leaf.shape) for path, leaf in flat.items()}
    expected = {spec.name: spec.shape for spec in param_specs(config)}
    findings = mismatches(expected, shapes)
    if findings:
        raise ParameterError(
            where,
            expected=f"{len(expected)} parameters of a {config.family} model",
            got=f"{len(findings)} that do not fit",
            remedy="Use the configuration these parameters were made with, or mend them:",
            findings=findings,
        )


def mismatches(expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What tells a set of named shapes from the expected one, a line each."""
    lines = [f"{name} is missing; expected shape {list(expected[name])}" for name in expected if name not in got]
    lines += [f"{name} is unknown; it has shape {list(got[name])}" for name in got if name not in expected]
    lines += [
        f"{name} has shape {list(got[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in got and got[name] != shape
    ]
    return lines
