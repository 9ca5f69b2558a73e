"""Commands do their work and end with their own exit code, whichever of the standard streams are closed or full."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Forks once for each command, which spares the start of an interpreter; a closed stream is None, as Python has it.
DRIVER = """
import json, os, sys, traceback
from tritter_jax.cli.main import main
closed, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for arguments in commands:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 100)
        for number in closed:
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)
        sys.argv = ["tritter", *arguments]
        code, trace = 0, ""
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            trace = traceback.format_exc()
        os.write(100, json.dumps([code, trace, os.path.realpath("/proc/self/fd/1")]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as result:
        outcome = result.read()
    os.waitpid(child, 0)
    print("OUTCOME", outcome, flush=True)
"""
CLOSED = [[1], [0, 1, 2], *(pytest.param(closed, marks=pytest.mark.slow) for closed in ([0], [2], [1, 2]))]


def outcomes(closed: list[int], commands: list[list[str]], directory) -> list[tuple[int, str, str]]:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(closed), json.dumps(commands)],
        capture_output=True, text=True, cwd=directory, stdin=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    return [json.loads(line.removeprefix("OUTCOME ")) for line in done.stdout.splitlines() if "OUTCOME" in line]


@pytest.mark.parametrize("closed", CLOSED, ids=lambda numbers: "".join(map(str, numbers)))
def test_commands_work_with_closed_streams(small, tmp_path, closed):
    right = [["info", small], ["info", small, "--json"], ["verify", small], ["sizes"], ["diff", small, small], [],
             ["--version"], ["expand", "--help"], ["import", small, "copy.tprog"], ["card", small, "-v"],
             ["report", small, "-q"], ["plan", "--from", "3B", "--to", "7B"]]  # fmt: skip
    wrong = [["info", "nowhere"], ["info", "nowhere", "--json"]]
    found = outcomes(closed, [*right, *wrong, ["nonsense"]], tmp_path)
    assert [code for code, _, _ in found] == [0] * len(right) + [1] * len(wrong) + [2], found
    assert not any(trace for _, trace, _ in found)
    assert (tmp_path / "copy.tprog" / "weights.safetensors").is_file()


def test_expand_with_closed_output_writes_the_checkpoint_and_nothing_into_it(small, config_file, tmp_path):
    from tprog.verify import verify

    from tests.cli.conftest import LARGER

    target = config_file("large.json", **LARGER)
    command = ["expand", "--from", small, "--to", str(target), "--layers", "0", "--out", "grown.tprog"]
    ((code, trace, output),) = outcomes([1, 2], [command], tmp_path)
    assert (code, trace, output) == (0, "", os.devnull)
    assert verify(tmp_path / "grown.tprog").ok


CODE = "from tritter_jax.cli.main import main; main()"


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [("| head -c 1", 1, ""), (">/dev/full", 1, "No space left"), ("2>/dev/full", 0, "")],
)
def test_a_pipe_that_nobody_reads_and_a_full_disk_end_a_command_quietly(small, tmp_path, redirection, code, said):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    command = f"'{sys.executable}' -c '{CODE}' info {small} --json"
    line = f"for i in 1 2 3; do {command} || exit $?; done {redirection}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == code
    assert said in done.stderr


def test_characters_that_the_output_cannot_encode_are_escaped(small, tmp_path):
    odd = tmp_path / "größe-層.tprog"
    Path(small).rename(odd)
    done = subprocess.run(
        [sys.executable, "-c", CODE, "info", str(odd)],
        capture_output=True, cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=True,
    )  # fmt: skip
    assert rb"gr\xf6\xdfe-\u5c64.tprog" in done.stdout
