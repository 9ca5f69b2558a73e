"""From a run configuration to what a run needs: model, data, mesh, optimizer. Everything is checked here."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import optax
import tprog.flax
from jax.sharding import Mesh
from tprog import ModelConfig, UsageError, load_config, named_size
from tprog.flax_state import load_optimizer
from tprog.reader import Checkpoint, open_checkpoint

from tritter_jax.data import TokenFile, Tokenizer, byte_tokenizer, load_tokenizer, open_corpus, tokenize
from tritter_jax.model import init_params
from tritter_jax.sharding import DEFAULT_RULES, MESH_AXES, MeshShape, Rules, make_mesh
from tritter_jax.train.config import RunConfig
from tritter_jax.train.optimizer import make_optimizer, make_schedule
from tritter_jax.train.state import TrainState, new_state, state_shardings

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that is ready to begin.

    Args:
        settings: its configuration.
        config: the model.
        start: the checkpoint it goes on from, if any.
        tokenizer: the tokenizer.
        tokens: the tokenised corpus.
        mesh: the devices.
        rules: logical axis to mesh axis.
        schedule: learning rate by step.
        optimizer: the optax chain.
    """

    settings: RunConfig
    config: ModelConfig
    start: Checkpoint | None
    tokenizer: Tokenizer
    tokens: TokenFile
    mesh: Mesh
    rules: Rules
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation

    @property
    def dtype(self) -> str:
        """Dtype of the computation."""
        return self.settings.training.compute_dtype

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the training state."""
        shapes = jax.eval_shape(self._fresh)
        shardings = state_shardings(self.optimizer, shapes, self.config, self.mesh, self.rules)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )

    def first_state(self) -> TrainState:
        """The state before the first step: fresh, or a checkpoint's with its optimizer where it has one."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
        if self.start is None:
            return jax.jit(self._fresh, out_shardings=shardings)()
        params = tprog.flax.load(self.start, dtype=self.config.dtype)
        state = new_state(params, self.optimizer, self.settings.training.seed)
        if "optimizer" in self.start.parts:
            state = state._replace(opt_state=load_optimizer(self.start, state.opt_state))
        state = state._replace(step=state.step + self.start.progressive.steps)
        return jax.device_put(state, shardings)

    def _fresh(self) -> TrainState:
        seed = self.settings.training.seed
        return new_state(init_params(self.config, seed=seed), self.optimizer, seed)


def prepare(settings: RunConfig, *, progress: Progress = lambda done, total: None) -> Run:
    """Open and check everything a run needs; tokenises the corpus where that was not done before.

    Args:
        settings: the run's configuration.
        progress: told bytes done and bytes in all while the corpus is tokenised.

    Raises:
        UsageError, ConfigError, FormatError: something is missing, or two things do not go together.
    """
    start, chosen = _model(settings)
    tokenizer = _tokenizer(settings, start)
    vocabulary = settings.model.vocab_size or (start.config.vocab_size if start else tokenizer.vocab_size)
    if start is not None and vocabulary != start.config.vocab_size:
        raise UsageError(
            "model.vocab_size", expected=f"{start.config.vocab_size}, as in the checkpoint", got=vocabulary,
            remedy="Leave it out.",
        )  # fmt: skip
    config = replace(
        chosen,
        vocab_size=vocabulary,
        dtype="float64" if settings.training.compute_dtype == "float64" else "float32",
        max_position_embeddings=max(chosen.max_position_embeddings, settings.data.sequence_length),
    )
    shape = MeshShape(data=settings.mesh.data, fsdp=settings.mesh.fsdp, tensor=settings.mesh.tensor)
    _check_batch(settings, shape)
    rules = _rules(settings)
    mesh = make_mesh(shape)
    schedule = make_schedule(settings.schedule, settings.optimizer.learning_rate, settings.training.steps)
    optimizer = make_optimizer(settings.optimizer, schedule, config)
    cache = Path(settings.data.cache).expanduser() if settings.data.cache else None
    tokens = tokenize(open_corpus(settings.data.train), tokenizer, cache=cache, progress=progress)
    tokens.check_vocabulary(config.vocab_size)
    run = Run(
        settings=settings,
        config=config,
        start=start,
        tokenizer=tokenizer,
        tokens=tokens,
        mesh=mesh,
        rules=rules,
        schedule=schedule,
        optimizer=optimizer,
    )
    run.abstract_state()  # a mesh that does not divide the model is told now
    return run


def _model(settings: RunConfig) -> tuple[Checkpoint | None, ModelConfig]:
    section = settings.model
    given = [name for name in ("size", "config", "checkpoint") if getattr(section, name)]
    if len(given) != 1:
        raise UsageError(
            "[model]", expected="one of size, config and checkpoint", got=" and ".join(given) or "none",
            remedy='For example: size = "125M"',
        )  # fmt: skip
    if section.checkpoint:
        checkpoint = open_checkpoint(section.checkpoint)
        return checkpoint, checkpoint.config
    return None, named_size(section.size) if section.size else load_config(Path(section.config or ""))


def _tokenizer(settings: RunConfig, start: Checkpoint | None) -> Tokenizer:
    name = settings.data.tokenizer
    if name != "bytes":
        return load_tokenizer(name)
    return load_tokenizer(start.path) if start is not None and start.tokenizer_files else byte_tokenizer()


def _check_batch(settings: RunConfig, shape: MeshShape) -> None:
    batch, parts = settings.data.batch_size, shape.batch_shards * settings.training.accumulate
    if batch % parts:
        raise UsageError(
            "data.batch_size",
            expected=f"a multiple of data x fsdp x accumulate = {parts}",
            got=batch,
            remedy=f"The nearest that works is {max(parts, round(batch / parts) * parts)}.",
        )


def _rules(settings: RunConfig) -> dict[str, str | None]:
    rules = dict(DEFAULT_RULES)
    for axis, along in settings.mesh.rules.items():
        if axis not in rules or along not in (*MESH_AXES, "none"):
            raise UsageError(
                f"mesh.rules.{axis}",
                expected=f"one of {', '.join(rules)}, mapped to one of {', '.join(MESH_AXES)} or none",
                got=along,
                remedy="Mend the rule.",
            )
        rules[axis] = None if along == "none" else along
    return rules
