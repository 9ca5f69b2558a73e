"""What a run holds on to, on its devices."""

from collections.abc import Callable

from tritter_jax.continual import Memory
from tritter_jax.continual.stored import stored_memory
from tritter_jax.train.kept import check_kept, warning_of
from tritter_jax.train.processes import spread
from tritter_jax.train.setup import Run
from tritter_jax.train.start import Start
from tritter_jax.train.state import memory_shardings


def load_memory(run: Run, start: Start, say: Callable[[str], None]) -> Memory | None:
    """What a run holds on to, spread over the mesh as the parameters are; None where it asks for no penalty.

    It comes from the run directory: a run goes on with what it began with, whatever became of the checkpoint.

    Args:
        run: from `prepare`.
        start: what its model brought along.
        say: told where the run learns the very data that it is to hold on to.

    Raises:
        UsageError: there is no Fisher information, or it is switched off.
        FormatError: it is of another model or of another unit, or a value is negative or not finite.
    """
    if not run.settings.ewc.lambda_:
        return None
    check_kept(run.settings, start)
    if warning := warning_of(run.settings, start):
        say(warning)
    place = memory_shardings(run.config, run.mesh, run.rules)
    memory = stored_memory(start, shardings=place.fisher)
    return memory._replace(constant=spread(memory.constant, place.constant))
