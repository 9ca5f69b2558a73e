"""From a run configuration to what a run needs: model, data, mesh, optimizer. Everything is checked here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tprog.flax
from jax.sharding import Mesh
from tprog import ModelConfig, UsageError, load_config, named_size
from tprog.config_json import as_family
from tprog.disk import refuse_url
from tprog.flax_state import load_optimizer
from tprog.layout import PROGRESSIVE
from tprog.reader import Checkpoint, open_checkpoint
from tprog.schema import read_progressive

from tritter_jax.data import (
    TokenFile,
    Tokenizer,
    byte_tokenizer,
    choose_tokenizer,
    load_tokenizer,
    open_corpora,
    tokenize,
)
from tritter_jax.data.choice import BYTE_NAMES
from tritter_jax.model import REMAT, init_params
from tritter_jax.sharding import DEFAULT_RULES, MESH_AXES, MeshShape, Rules, make_mesh
from tritter_jax.train.config import OWN, MeshSection, RunConfig
from tritter_jax.train.kept import check_kept
from tritter_jax.train.optimizer import make_optimizer, make_schedule
from tritter_jax.train.places import require_checkpoints
from tritter_jax.train.processes import batch_part, spread
from tritter_jax.train.rate import with_rate
from tritter_jax.train.start import Start, has_start, open_start
from tritter_jax.train.state import TrainState, new_state, state_shardings

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a run computes and where, all of it known before there are data or devices.

    Args:
        settings: its configuration.
        config: the model.
        positions: `max_position_embeddings` of the model before this run.
        mesh: the devices.
        rules: logical axis to mesh axis.
        schedule: learning rate by step.
        optimizer: the optax chain.
    """

    settings: RunConfig
    config: ModelConfig
    positions: int
    mesh: Mesh
    rules: Rules
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation

    @property
    def dtype(self) -> str:
        """Dtype of the computation."""
        return self.settings.training.compute_dtype

    @property
    def remarks(self) -> list[str]:
        """What a run does otherwise than the model's config.json says, a line each."""
        length, lines = self.config.max_position_embeddings, []
        if length != self.positions:
            lines.append(
                f"sequences of {length} tokens are longer than the {self.positions} that the model was made for: "
                "config.json will have that length as max_position_embeddings; to keep it, set "
                f"data.sequence_length={self.positions}"
            )
        if rate := self.config.extra.get("attention_dropout"):
            lines.append(f"attention_dropout {rate} of config.json is not applied: training here has no dropout")
        return lines

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the training state."""
        shapes = jax.eval_shape(self._fresh)
        shardings = state_shardings(self.optimizer, shapes, self.config, self.mesh, self.rules)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )

    def _fresh(self) -> TrainState:
        seed = self.settings.training.seed
        return new_state(init_params(self.config, seed=seed), self.optimizer, seed)


@dataclass(frozen=True, kw_only=True)
class Run(Layout):
    """A run that is ready to begin.

    Args:
        origin: the checkpoint it goes on from, if any.
        tokenizer: the tokenizer.
        tokens: the tokenised corpus.
        rate_from: where the learning rate of the settings comes from, in a few words.
    """

    origin: Checkpoint | None
    tokenizer: Tokenizer
    tokens: TokenFile
    rate_from: str

    def first_state(self) -> TrainState:
        """The state before the first step: fresh, or a checkpoint's with its optimizer where it has one."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
        if self.origin is None:
            return jax.jit(self._fresh, out_shardings=shardings)()
        params = tprog.flax.load(self.origin, dtype=self.config.dtype, shardings=shardings.params)
        if "optimizer" in self.origin.parts:  # fresh moments beside those would be two thirds more memory
            fresh = jax.eval_shape(self._fresh).opt_state
            stored = load_optimizer(self.origin, fresh, shardings=shardings.params)
            opt_state = spread(stored, shardings.opt_state)
        else:
            opt_state = jax.jit(self.optimizer.init, out_shardings=shardings.opt_state)(params)
        steps = jnp.int32(self.origin.progressive.steps)
        key = jax.random.key(self.settings.training.seed)
        return TrainState(params, opt_state, *spread((steps, key), (shardings.step, shardings.key)))


def prepare(settings: RunConfig, *, progress: Progress = lambda done, total: None) -> Run:
    """Open and check everything a run needs; tokenises the corpus where that was not done before.

    Args:
        settings: the run's configuration.
        progress: told bytes done and bytes in all while the corpus is tokenised.

    Raises:
        UsageError, ConfigError, FormatError: something is missing, or two things do not go together.
    """
    refuse_url(
        settings.output.directory,
        remedy="Mount the bucket (gcsfuse), or choose a directory here, and the bucket as output.checkpoints.",
    )
    require_checkpoints(settings)
    origin, tokenizer, model = choose_model(settings)
    settings = _with_tokenizer_named(settings, origin)
    settings, rate_from = with_rate(settings, origin)
    layout = lay_out(settings, model)
    batch_part(layout.mesh)  # raises where a process would have nothing to do
    check_kept(settings, _past(settings, origin))
    cache = settings.path(settings.data.cache) if settings.data.cache else None
    corpus = open_corpora([settings.data.train] if isinstance(settings.data.train, str) else settings.data.train)
    tokens = tokenize(
        corpus, tokenizer, held_out=settings.data.held_out, special_tokens=settings.data.special_tokens,
        cache=cache, progress=progress,
    )  # fmt: skip
    tokens.check_vocabulary(layout.config.vocab_size)
    run = Run(**vars(layout), origin=origin, tokenizer=tokenizer, tokens=tokens, rate_from=rate_from)
    run.abstract_state()  # a mesh that does not divide the model is told now
    return run


def choose_model(settings: RunConfig) -> tuple[Checkpoint | None, Tokenizer, ModelConfig]:
    """The checkpoint to go on from, if any, the tokenizer, and the model with the vocabulary that it will have.

    Raises:
        UsageError, ConfigError, FormatError: one of them is missing, or they do not go together.
    """
    origin, chosen = _model(settings)
    tokenizer = _tokenizer(settings, origin)
    vocabulary = settings.model.vocab_size or (origin.config.vocab_size if origin else tokenizer.vocab_size)
    if origin is not None and vocabulary != origin.config.vocab_size:
        raise UsageError(
            "model.vocab_size", expected=f"{origin.config.vocab_size}, as in the checkpoint", got=vocabulary,
            remedy="Leave it out.",
        )  # fmt: skip
    return origin, tokenizer, replace(chosen, vocab_size=vocabulary)


def lay_out(settings: RunConfig, model: ModelConfig, devices: Sequence[Any] | None = None) -> Layout:
    """Mesh, sharding rules and optimizer of a run.

    Args:
        settings: the run's configuration.
        model: the model, with its vocabulary.
        devices: what the mesh is made of; those of this job when None.

    Raises:
        UsageError: the mesh does not fit the devices or the batch, or there is no such rule, optimizer, schedule or
            remat policy.
    """
    config = replace(
        model,
        dtype="float64" if settings.training.compute_dtype == "float64" else "float32",
        max_position_embeddings=max(model.max_position_embeddings, settings.data.sequence_length),
    )
    shape = mesh_shape(settings.mesh, devices)
    _check_batch(settings, shape)
    rules = mesh_rules(settings.mesh)
    UsageError.choose("training.remat", settings.training.remat, REMAT)  # before anything is compiled with it
    schedule = make_schedule(settings.schedule, settings.optimizer.peak, settings.training.steps)
    return Layout(
        settings=settings,
        config=config,
        positions=model.max_position_embeddings,
        mesh=make_mesh(shape, devices),
        rules=rules,
        schedule=schedule,
        optimizer=make_optimizer(settings.optimizer, schedule, config, settings.ewc),
    )


def _model(settings: RunConfig) -> tuple[Checkpoint | None, ModelConfig]:
    section = settings.model
    given = [name for name in ("size", "config", "checkpoint") if getattr(section, name)]
    if len(given) != 1:
        raise UsageError(
            "[model]", expected="one of size, config and checkpoint", got=" and ".join(given) or "none",
            remedy='For example: size = "125M"',
        )  # fmt: skip
    if section.checkpoint:
        checkpoint = open_checkpoint(settings.source(section.checkpoint))
        return checkpoint, checkpoint.config
    if section.size:
        return None, named_size(section.size)
    path = settings.path(section.config or "")
    config, beside = load_config(path), path.parent / PROGRESSIVE
    return None, as_family(config, read_progressive(beside).model_family) if beside.is_file() else config


def _past(settings: RunConfig, origin: Checkpoint | None) -> Checkpoint | Start | None:
    """What the model brought along: an exported run has it in its own directory alone."""
    return open_start(settings.directory) if origin is None and has_start(settings.directory) else origin


def _with_tokenizer_named(settings: RunConfig, origin: Checkpoint | None) -> RunConfig:
    """The settings with the tokenizer that was used in the place of none, as run.toml has them."""
    if settings.data.tokenizer is not None:
        return settings
    used = BYTE_NAMES[0] if origin is None else OWN
    return settings.model_copy(update={"data": settings.data.model_copy(update={"tokenizer": used})})


def _tokenizer(settings: RunConfig, origin: Checkpoint | None) -> Tokenizer:
    chosen = settings.data.tokenizer
    if chosen in BYTE_NAMES or (chosen is None and origin is None):
        return byte_tokenizer()
    if chosen is not None and chosen != OWN:
        return load_tokenizer(settings.tokenizer())
    if origin is None:
        raise UsageError(
            "data.tokenizer", expected="a tokenizer, where no checkpoint is gone on from", got=repr(OWN),
            remedy="Leave it out for bytes, or name a directory that holds a tokenizer.json.",
        )  # fmt: skip
    return choose_tokenizer(origin, option="--tokenizer")


def mesh_shape(section: MeshSection, devices: Sequence[Any] | None = None) -> MeshShape:
    """Devices along each axis, with -1 filled in.

    Args:
        section: what the configuration says.
        devices: those there are; those of this job when None.

    Raises:
        UsageError: two axes are -1, or the others do not divide the devices there are.
    """
    sizes = {name: getattr(section, name) for name in MESH_AXES}
    left = [name for name, size in sizes.items() if size == -1]
    count = len(jax.devices() if devices is None else devices)
    if len(left) > 1 or (left and count % section.named):
        raise UsageError(
            f"mesh.{left[-1]}", expected=f"one axis of -1, the others dividing the {count} devices",
            got=" x ".join(map(str, sizes.values())), remedy="Name the number of devices along each axis.",
        )  # fmt: skip
    return MeshShape(**(sizes | dict.fromkeys(left, count // section.named)))


def _check_batch(settings: RunConfig, shape: MeshShape) -> None:
    batch, parts = settings.data.batch_size, shape.batch_shards * settings.training.accumulate
    if batch % parts:
        raise UsageError(
            "data.batch_size",
            expected=f"a multiple of data x fsdp x accumulate = {parts}",
            got=batch,
            remedy=f"The nearest that works is {max(parts, round(batch / parts) * parts)}.",
        )


def mesh_rules(section: MeshSection) -> dict[str, str | None]:
    """The mesh axis of every logical axis, with the section's changes.

    Raises:
        UsageError: there is no such axis.
    """
    rules = dict(DEFAULT_RULES)
    for axis, along in section.rules.items():
        if axis not in rules or along not in (*MESH_AXES, "none"):
            raise UsageError(
                f"mesh.rules.{axis}",
                expected=f"one of {', '.join(rules)}, mapped to one of {', '.join(MESH_AXES)} or none",
                got=along,
                remedy="Mend the rule.",
            )
        rules[axis] = None if along == "none" else along
    return rules
