"""A plan as progressive.json remembers it, and back: what is needed to name new layers and entries again later."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import reduce
from typing import Any

from tprog import GrowthError, ModelConfig
from tprog.config import SIZE_FIELDS

from tritter_jax.growth.compare import fingerprint
from tritter_jax.growth.depth import Layout
from tritter_jax.growth.noise import Noise
from tritter_jax.growth.plan import Plan
from tritter_jax.growth.planning import build_plan

_VERSION = 1
_RECORDED = (*SIZE_FIELDS, "vocab_size", "dtype")


def plan_to_record(plan: Plan) -> dict[str, Any]:
    """The plan as JSON: both sizes, the grown stack, and the choices; a few hundred bytes.

    Example:
        >>> import tprog
        >>> from tritter_jax.growth import make_plan
        >>> record = plan_to_record(make_plan(tprog.named_size("3B"), tprog.named_size("7B")))
        >>> record["new_layers"], record["width"]
        ([4, 9, 14, 19, 24, 29], 'duplicate')
    """
    return {
        "version": _VERSION,
        "source": {name: getattr(plan.source, name) for name in _RECORDED},
        "target": {name: getattr(plan.target, name) for name in _RECORDED},
        "depth": plan.depth,
        "positions": plan.positions,
        "layer_sources": list(plan.stack.source),
        "new_layers": list(plan.new_layers),
        "width": plan.width,
        "split": plan.split,
        "seed": plan.seed,
        "convert": plan.convert,
        "noise": None if plan.noise is None else asdict(plan.noise),
        "steps": [plan_to_record(step) for step in plan.steps],
        "source_fingerprint": fingerprint(plan.source),
    }


def method_of(plan: Plan) -> str:
    """What kind of growth it is, in the specification's words.

    Example:
        >>> import tprog
        >>> from tritter_jax.growth import make_plan
        >>> method_of(make_plan(tprog.named_size("3B"), tprog.named_size("7B")))
        'depth_and_width_upscaling'
    """
    wider = any(axis.name != "layers" for axis, _ in plan.maps)
    parts = [name for name, grew in (("depth", bool(plan.new_layers)), ("width", wider)) if grew]
    return f"{'_and_'.join(parts)}_upscaling"


def plan_from_record(record: Mapping[str, Any], config: ModelConfig) -> Plan:
    """The plan that `plan_to_record` remembered.

    Args:
        record: the `plan` of an entry of expansion_history.
        config: configuration of the checkpoint that holds the record; gives all that growth does not change.

    Raises:
        GrowthError: the record is of another version, or incomplete.

    Example:
        >>> import tprog
        >>> from tritter_jax.growth import make_plan
        >>> plan = make_plan(tprog.named_size("3B"), tprog.named_size("7B"))
        >>> plan_from_record(plan_to_record(plan), plan.target) == plan
        True
    """
    if record.get("version") != _VERSION:
        raise GrowthError(
            "expansion_history.plan",
            expected=f"version {_VERSION}",
            got=record.get("version"),
            remedy="A newer release wrote it: upgrade tritter-jax.",
        )
    try:
        if record.get("steps"):
            first, *rest = (plan_from_record(step, config) for step in record["steps"])
            return reduce(Plan.then, rest, first)
        sources, new = record["layer_sources"], set(record["new_layers"])
        stack = Layout(tuple(map(int, sources)), tuple(i in new for i in range(len(sources))))
        source, target = (
            replace(config, **{name: record[which][name] for name in _RECORDED}) for which in ("source", "target")
        )
        _check_stack(stack, source, target)
        choices = {name: str(record[name]) for name in ("depth", "positions", "width", "split")}
        seed, convert = int(record["seed"]), bool(record["convert"])
        noise = Noise(**record["noise"]) if record.get("noise") else None
        return build_plan(
            source, target, stack=stack, noise=noise, allow_inexact=True, seed=seed, convert=convert, **choices
        )
    except KeyError as error:
        raise _edited(f"a field {error}", "nothing") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise _edited("what `tritter expand` writes", str(error)) from None


def stored_plan(record: Mapping[str, Any], config: ModelConfig) -> Plan:
    """The plan that a record holds, to be applied to a model.

    Args:
        record: from `plan_to_record`.
        config: the model at hand, which must be the one that the plan was made for.

    Raises:
        GrowthError: it is another one, or the record is incomplete.
    """
    if record.get("source_fingerprint") != fingerprint(config):
        sizes = record.get("source")
        known = sizes if isinstance(sizes, Mapping) else {}
        raise GrowthError(
            "plan",
            expected=f"a model with fingerprint {str(record.get('source_fingerprint'))[:12]}, for which it was made",
            got=f"one with {fingerprint(config)[:12]}",
            remedy="Plan anew for this model, or apply the plan to the one it was made for.",
            findings=[
                f"{name}: the plan has {known[name]}, the model {getattr(config, name)}"
                for name in _RECORDED
                if name in known and name != "dtype" and known[name] != getattr(config, name)
            ],
        )
    return plan_from_record(record, config)


def _check_stack(stack: Layout, source: ModelConfig, target: ModelConfig) -> None:
    kept = [old for old, new in zip(stack.source, stack.new, strict=True) if not new]
    if len(stack.source) != target.num_layers or kept != list(range(source.num_layers)):
        raise _edited(
            f"{target.num_layers} layers, the {source.num_layers} old ones in order among them",
            f"{len(stack.source)} layers, of which {len(kept)} are old",
        )
    if not set(stack.source) <= set(kept):
        raise _edited(f"copies of layers below {source.num_layers}", f"layer {max(stack.source)}")


def _edited(expected: str, got: str) -> GrowthError:
    return GrowthError("expansion_history.plan", expected=expected, got=got, remedy="The record was edited.")
