"""Rows of a benchmark, each a process of its own that is asked for one round after the other, or says why it cannot.

The process prints a line of JSON when it is ready, or why it is not, and then one for each line that it is sent.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

SKIPPED = "skipped"


def missing(error: ImportError) -> dict[str, str]:
    """What a row says whose library is not installed."""
    return {SKIPPED: f"{(error.name or str(error)).partition('.')[0]} is not installed"}


def serve(
    prepare: Callable[[], Callable[[], Mapping[str, Any]]], *, also: tuple[type[BaseException], ...] = ()
) -> None:
    """A row's own process: prepare, then one round for each line that comes in.

    Args:
        prepare: gives what does a round, and what it gives is printed.
        also: exceptions whose text is why there is no row, beside a library that is not installed.
    """
    try:
        work = prepare()
    except ImportError as error:
        print(json.dumps(missing(error)), flush=True)
        return
    except also as reason:
        print(json.dumps({SKIPPED: str(reason)}), flush=True)
        return
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(work()), flush=True)


class Row:
    """The process of a row, from outside."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._ready = False

    def ask(self) -> dict[str, Any]:
        """One round, or why there is none under `SKIPPED`; a row that said so is not asked again."""
        assert self._process.stdin and self._process.stdout
        if not self._ready:
            said = self._line()
            if SKIPPED in said:
                return said
            self._ready = True
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {SKIPPED: "failed, see above"}
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        return json.loads(line) if line else {SKIPPED: "failed, see above"}


@contextlib.contextmanager
def rows(commands: Mapping[str, Sequence[str]], environment: Mapping[str, str]) -> Iterator[dict[str, Row]]:
    """A context with all processes started; at its end they have ended, however that was."""
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, command in commands.items():
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            processes[name] = subprocess.Popen(list(command), env=dict(environment), **pipes)
        yield {name: Row(process) for name, process in processes.items()}
    finally:
        for process in processes.values():
            # What could not be sent to one that has ended is still in the buffer, and closing tries to send it again.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in processes.values():
            process.stdout.close()
            process.wait()


def taken_in_turn(
    commands: Mapping[str, Sequence[str]], environment: Mapping[str, str], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """The rounds of each row, taken in turn, every process waiting while another computes.

    Returns:
        By row one answer more than `rounds`, things being compiled for the first; or the one that says why not.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    with rows(commands, environment) as asked:
        for _ in range(rounds + 1):
            for name, row in asked.items():
                if not is_skipped(found[name]):
                    found[name].append(row.ask())
                    found[name] = found[name][-1:] if is_skipped(found[name]) else found[name]
    return found


def is_skipped(answers: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a row has said why there is none."""
    return bool(answers) and SKIPPED in answers[-1]
