"""Walking any pytree along a plan's rows: each leaf with its row and layer, and the tree with more layers.

Dicts, lists, tuples, registered dataclasses, `nnx.State` and Flax Linen's params alike: a node is taken apart one
level at a time by jax's own registry. Only where layers are added does its kind matter: to a list, a tuple or a
mapping.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from tprog import ParameterError

from tritter_jax.growth.own.plan import AxesPlan
from tritter_jax.growth.own.rows import Row

GrowLeaf = Callable[[Row, int | None, Any], Any]
"""From a leaf's row, the layer that it becomes (None outside subtrees of layers) and its value to a new value."""


def map_leaves(tree: Any, plan: AxesPlan, leaf: GrowLeaf, *, grown: bool = False, where: str = "the tree") -> Any:
    """The tree with each leaf replaced, and with a copy of the layer's subtree for every layer that is added.

    Args:
        tree: any pytree; leaves may be abstract. Parts may be missing, as in masked optimizer states.
        plan: whose rows describe the tree.
        leaf: makes each new leaf.
        grown: whether the tree has the plan's sizes after growth; then no layer is added.
        where: what the tree is, for errors.

    Raises:
        ParameterError: a leaf belongs to no row or to several, or the number of layers is not the plan's.
    """
    walker = _Walker(plan, leaf, grown, where)
    result = walker.node(tree, (), None)
    if walker.findings:
        raise ParameterError(
            where, expected="one row of the plan for every leaf",
            got=f"{len(walker.findings)} that have none or several",
            remedy="Give each leaf a row; one whose axes have no role stays as it is:", findings=walker.findings,
        )  # fmt: skip
    return result


class _Walker:
    def __init__(self, plan: AxesPlan, leaf: GrowLeaf, grown: bool, where: str) -> None:
        self._plan, self._leaf, self._grown, self._where = plan, leaf, grown, where
        self._stacks: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
        for row in plan.rows:
            if row.per_layer and row.stack is not None:
                head, _, tail = row.pattern.partition("*")
                *path, prefix = head.split(".")
                self._stacks.setdefault(tuple(path), {})[prefix, tail.partition(".")[0]] = row.stack.name
        self.findings: list[str] = []

    def node(self, node: Any, path: tuple[str, ...], layer: int | None) -> Any:
        flat, structure = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda one: one is not node)
        if flat and not flat[0][0]:
            return self._found(node, path, layer)
        if not flat:  # None, or what an optimizer has masked
            return node
        children = [(_key(keys[0]), child) for keys, child in flat]
        if path in self._stacks and layer is None:
            return self._layers(node, children, structure, path)
        return structure.unflatten([self.node(child, (*path, str(key)), layer) for key, child in children])

    def _found(self, value: Any, path: tuple[str, ...], layer: int | None) -> Any:
        name = ".".join(path)
        matches = [(row, found) for row in self._plan.rows if (found := row.regex.fullmatch(name))]
        if len(matches) != 1:
            rows = ", ".join(row.pattern for row, _ in matches) or "no row"
            self.findings.append(f"{name} has {rows}")
            return value
        return self._leaf(matches[0][0], layer, value)

    def _layers(self, node: Any, children: Sequence[tuple[Any, Any]], structure: Any, path: tuple[str, ...]) -> Any:
        """A node that has layers among its children, of one stack or of several."""
        old, made = {}, {}
        for (prefix, suffix), axis in self._stacks[path].items():
            numbers = {key: _number(key, prefix, suffix) for key, _ in children}
            layers = {number: child for key, child in children if (number := numbers[key]) is not None}
            self._check_count(layers, axis, path)
            old |= {key: number for key, number in numbers.items() if number is not None}
            for new in range(len(layers) if self._grown else self._plan.after[axis]):
                source = new if self._grown else self._plan.layer_source(axis, new)
                key = new if any(isinstance(key, int) for key, _ in children) else f"{prefix}{new}{suffix}"
                made[key] = self.node(layers[source], (*path, str(key)), new)
        kept = {key: self.node(child, (*path, str(key)), None) for key, child in children if key not in old}
        if made.keys() == old.keys():
            both = kept | made
            return structure.unflatten([both[key] for key, _ in children])
        if isinstance(node, Mapping):
            rebuild: Any = type(node)
            return rebuild(kept | made)  # a dict, Linen's FrozenDict, nnx.State
        if isinstance(node, list | tuple) and not hasattr(node, "_fields"):
            return type(node)(made.values())
        raise ParameterError(
            self._name(path), expected="layers in a list, a tuple or a mapping", got=type(node).__name__,
            remedy="Layers can be added to these only: hold them in one.",
        )  # fmt: skip

    def _check_count(self, layers: Mapping[int, Any], axis: str, path: tuple[str, ...]) -> None:
        size = (self._plan.after if self._grown else self._plan.before)[axis]
        if sorted(layers) != list(range(size)):
            raise ParameterError(
                self._name(path), expected=f"{size} layers, numbered from 0",
                got=f"{len(layers)}: {', '.join(map(str, sorted(layers)[:8]))}",
                remedy=f"Give their number as {axis}, and rows whose patterns follow their names.",
            )  # fmt: skip

    def _name(self, path: tuple[str, ...]) -> str:
        return f"{self._where}: {'.'.join(path) or 'its root'}"


def _key(key: Any) -> Any:
    """The name or number in a key of a path."""
    for field in ("key", "idx", "name"):
        if hasattr(key, field):
            return getattr(key, field)
    return str(key)


def _number(key: Any, prefix: str, suffix: str) -> int | None:
    """The layer's number in the name of a subtree; None where it is no layer."""
    if isinstance(key, int):
        return key if not prefix and not suffix else None
    number = str(key).removeprefix(prefix).removesuffix(suffix)
    return int(number) if str(key) == f"{prefix}{number}{suffix}" and number.isdecimal() else None
