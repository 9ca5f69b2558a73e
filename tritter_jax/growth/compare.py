"""What a target may differ in from its source, and whether a plan is for the model at hand."""

import hashlib
import json
from dataclasses import asdict, fields

from tprog import GrowthError, ModelConfig
from tprog.config import SIZE_FIELDS

SIZES = (*(name for name in SIZE_FIELDS if name != "head_dim"), "vocab_size")
"""The fields of `ModelConfig` that a growth may enlarge."""

_NOT_FUNCTION = ("dtype", "extra", "initializer_range", "max_position_embeddings")
_MAY_DIFFER = {*SIZES, "family", *_NOT_FUNCTION}


def compare(source: ModelConfig, target: ModelConfig) -> None:
    """Hold a target against its source: the same function, no size smaller, one larger.

    Raises:
        GrowthError: it is another model, or there is nothing to grow.
    """
    if source.family_record.model_type != target.family_record.model_type:
        raise GrowthError(
            "family",
            expected=f"{source.family}, as in the source",
            got=target.family,
            remedy="A model grows within its family; convert it first, or choose a target of the same family.",
        )
    if target.head_dim != source.head_dim:
        raise GrowthError(
            "head_dim",
            expected=f"{source.head_dim}, as in the source",
            got=target.head_dim,
            remedy="Rotary embedding and the attention scale depend on it: grow the number of heads instead.",
        )
    smaller = [
        f"{name} shrinks from {getattr(source, name)} to {getattr(target, name)}"
        for name in SIZES
        if getattr(target, name) < getattr(source, name)
    ]
    if smaller:
        raise GrowthError(
            "target", expected="no size below the source's", got=smaller[0], remedy="Choose a larger target.",
            findings=smaller[1:],
        )  # fmt: skip
    names = [f.name for f in fields(ModelConfig) if f.name not in _MAY_DIFFER]
    other = [name for name in names if getattr(source, name) != getattr(target, name)]
    if other:
        raise GrowthError(
            f"target's {other[0]}",
            expected=f"{getattr(source, other[0])}, as in the source",
            got=getattr(target, other[0]),
            remedy="Growth changes sizes only; make the other fields of the target equal to the source's.",
            findings=[f"{name}: {getattr(source, name)} -> {getattr(target, name)}" for name in other[1:]],
        )
    if all(getattr(source, name) == getattr(target, name) for name in SIZES):
        raise GrowthError(
            "target", expected="a larger size", got="the source's own", remedy="There is nothing to grow."
        )


def function_of(config: ModelConfig) -> dict[str, object]:
    """The fields of a configuration that make the model's function, as JSON; the family by its model_type."""
    known = {f.name: getattr(config, f.name) for f in fields(ModelConfig) if f.name not in _NOT_FUNCTION}
    scaling = None if config.rope_scaling is None else asdict(config.rope_scaling)
    return known | {"family": config.family_record.model_type, "rope_scaling": scaling}


def fingerprint(config: ModelConfig) -> str:
    """A hash of what makes a model's function but for its weights, by which a plan knows its source.

    Example:
        >>> import tprog
        >>> fingerprint(tprog.named_size("3B")) == fingerprint(tprog.named_size("7B"))
        False
    """
    text = json.dumps(function_of(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_source(planned: ModelConfig, config: ModelConfig) -> None:
    """Refuse a plan made for another model than the one at hand.

    Raises:
        GrowthError: they differ in what makes the function.
    """
    if fingerprint(planned) == fingerprint(config):
        return
    expected, got = function_of(planned), function_of(config)
    lines = [f"{name}: the plan has {expected[name]}, the model {got[name]}" for name in got]
    raise GrowthError(
        "plan",
        expected=f"a model with fingerprint {fingerprint(planned)[:12]}, for which it was made",
        got=f"one with {fingerprint(config)[:12]}",
        remedy="Plan anew for this model, or apply the plan to the one it was made for.",
        findings=[line for name, line in zip(got, lines, strict=True) if expected[name] != got[name]],
    )
