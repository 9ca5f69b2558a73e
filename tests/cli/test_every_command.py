"""What holds for every sub-command, the ones that are yet to come as well: they are found by walking the program.

A new command fails here until it has a line in `RIGHT` and, where it cannot be guessed, in `WRONG`.
"""

import json
import logging
import math
import os
import re
import shlex
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import tprog
from typer.main import get_command

import tritter_jax
import tritter_jax.aot
from tests.packaging.environments import requirements
from tritter_jax.cli import progress
from tritter_jax.cli.main import app
from tritter_jax.cli.output import Manner, emit, manner
from tritter_jax.cli.registry import command, described, new_app

ROOT = get_command(app)


def leaves(group, *names):
    """Every command of the program by its words."""
    for name, inner in group.commands.items():
        if hasattr(inner, "commands"):
            yield from leaves(inner, *names, name)
        else:
            yield " ".join([*names, name]), inner


COMMANDS = dict(leaves(ROOT))
every_command = pytest.mark.parametrize("name", COMMANDS)


def parse(line: str) -> str:
    """Hold a line against the parser, which raises where it has no such command or option; gives the command."""
    words = shlex.split(line.partition(">")[0])
    assert words[0] == "tritter"
    found, words = ROOT, words[1:]
    names = []
    while hasattr(found, "commands"):
        names.append(words[0])
        found, words = found.commands[words[0]], words[1:]
    found.make_context(names[-1], words)
    return " ".join(names)


BYTES = ("--tokenizer", "bytes")
SIZE = ("--sequence-length", "16", "--batch-size", "2", "--all", *BYTES)
TEXT = ("--data", "text")
RIGHT = {
    "expand": ("--from", "a.tprog", "--to", "large.json", "--layers", "0"),
    "plan": ("--from", "3B", "--to", "7B"),
    "analyze": ("a.tprog", *TEXT, "--samples", "70", *SIZE),
    "recommend": ("a.tprog",),
    "train": ("--set", "model.config=small.json", "--set", "data.tokenizer=bytes", "--out", "run", *TEXT),
    "fisher": ("a.tprog", *TEXT, "--samples", "2", *SIZE[:4], *BYTES, "--out", "fisher.tprog"),
    "eval": ("a.tprog", *TEXT, *SIZE),
    "generate": ("a.tprog", "--length", "2", *BYTES),
    "info": ("a.tprog",),
    "report": ("a.tprog",),
    "verify": ("a.tprog",),
    "diff": ("a.tprog", "a.tprog"),
    "sizes": (),
    "init": ("--config", "small.json", "--out", "new.tprog"),
    "import": ("a.tprog", "b.tprog"),
    "export": ("a.tprog", "hf"),
    "card": ("a.tprog",),
    "completion": ("bash",),
    "tokenizer train": (*TEXT, "--vocab-size", "300", "--out", "words"),
}
"""Arguments with which a command does its work in a second, in the directory that `work` makes."""
ELSEWHERE = {
    "demo": "tests/cli/test_commands.py",
    "pull": "tests/hub/test_transfer.py",
    "push": "tests/hub/test_transfer.py",
    "tokenizer refresh": "tests/tprog/test_tokenizer_copies.py",
    "tpu check": "below",
    "tpu plan": "tests/cli/test_tpu.py",
}
"""Where those are run with --json that need more than a directory."""
WRONG = {
    "train": ("--config", "nowhere.toml"),
    "demo": ("--out", "small.json"),
    "init": ("--size", "7C"),
    "recommend": ("nowhere",),
    "completion": (),
}
"""Arguments that are a mistake, where nonsense for everything that is required is none."""
INFALLIBLE = {"sizes"}


@pytest.fixture
def work(tritter, config_file, tmp_path, monkeypatch):
    """A directory with a small checkpoint, configurations and a text, in which `tritter` is run."""
    config_file("small.json", vocab_size=320)
    config_file("large.json", vocab_size=320, num_hidden_layers=3)
    (tmp_path / "text").write_text("".join(f"{i} times {i} is {i * i}.\n" for i in range(400)))
    assert tritter("init", "--config", "small.json", "--out", "a.tprog").code == 0
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    return tritter


def test_every_command_is_run_with_json_somewhere():
    assert RIGHT.keys() | ELSEWHERE.keys() == COMMANDS.keys()
    assert not RIGHT.keys() & ELSEWHERE.keys()


@pytest.mark.parametrize("name", RIGHT)
def test_json_is_one_document_and_quiet_is_nothing_else(work, name):
    short = ("--set", "training.steps=2", "--set", "data.sequence_length=16") if name == "train" else ()
    outcome = work(*name.split(), *RIGHT[name], *short, "--json", "--quiet")
    assert outcome.code == 0, outcome.err
    assert isinstance(json.loads(outcome.out), dict)
    assert outcome.err == ""


def test_json_has_null_for_what_it_has_no_number_for(work, capsys):
    arguments = ("train", *RIGHT["train"], "--set", "training.steps=2", "--set", "data.sequence_length=16")
    assert json.loads(work(*arguments, "--json").out)["loss"] > 0
    again = work(*arguments, "--json")
    assert (again.code, json.loads(again.out)["loss"], json.loads(again.out)["step"]) == (0, None, 2)
    assert "nothing was left to do: it stands at step 2" in work(*arguments).out
    before = manner.set(Manner(json=True))
    emit({"loss": [math.nan, (math.inf, 1.5)]}, lambda _: None)
    manner.reset(before)
    assert json.loads(capsys.readouterr().out) == {"loss": [None, [None, 1.5]]}


def test_json_of_a_compiled_configuration(tritter, tmp_path, monkeypatch):
    (tmp_path / "run.toml").write_text('[model]\nsize = "test"\n')
    found = SimpleNamespace(fits=True, to_json=lambda: {"fits": True})
    monkeypatch.setattr(tritter_jax.aot, "check", lambda *_, **__: found)
    outcome = tritter("tpu", "check", "run.toml", "--json", "--quiet")
    assert (outcome.code, outcome.json, outcome.err) == (0, {"configurations": [{"fits": True}]}, "")


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - INFALLIBLE))
def test_a_mistake_is_told_to_people_and_to_programs(work, name):
    nonsense = []
    for parameter in COMMANDS[name].params:
        if parameter.required and name not in WRONG:
            nonsense += ["64"] if parameter.param_type_name == "argument" else [parameter.opts[0], "64"]
    outcome = work(*name.split(), *WRONG.get(name, nonsense), "--json", "--quiet")
    assert outcome.code == 1, outcome.out + outcome.err
    told = outcome.json["error"]
    assert {"where", "expected", "got", "remedy"} <= told.keys()
    assert told["got"] in outcome.error
    assert outcome.error.startswith("error: ")


@every_command
def test_the_help_tells_what_it_does_and_shows_examples_that_parse(tritter, name):
    outcome = tritter(*name.split(), "--help")
    assert outcome.code == 0
    text, examples = described(COMMANDS[name].callback)
    assert text[0].isupper()
    assert examples
    for example in examples:
        assert example in outcome.out
        assert parse(example) == name
    for option in ("--json", "--quiet", "--verbose", "--help"):
        assert option in outcome.out


@every_command
def test_brackets_in_the_help_are_not_swallowed(tritter, name):
    shown = " ".join(tritter(*name.split(), "--help").out.replace("│", " ").split())
    for parameter in COMMANDS[name].params:
        for word in re.findall(r"\[[a-z]+\]", parameter.help.replace("\\", "")):
            assert word in shown


@every_command
def test_a_mistyped_command_is_answered_with_the_nearest(tritter, name):
    *group, last = name.split()
    error = tritter(*group, f"{last[:-1]}_").error
    assert "Did you mean" in error
    assert f"'{last}'" in error


@pytest.mark.parametrize("group", ["tokenizer", "tpu"])
def test_a_mistyped_group_is_answered_with_the_nearest(tritter, group):
    assert f"'{group}'" in tritter(f"{group[:-1]}_").error


def test_a_mistyped_option_is_answered_with_the_nearest(tritter):
    assert "--json" in tritter("sizes", "--jsn").error


HELP = """
import sys
from tritter_jax.cli.main import main
for words in {all!r}:
    sys.argv = ["tritter", *words]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, words
print(*sys.modules)
"""
HELP_NEEDS = {"typer", "rich", "pydantic"}
"""Dependencies that help is made with; typer brings pydantic."""


def test_no_help_waits_for_more_than_the_command_line():
    words = [["--help"], ["--version"], *([*name.split(), "--help"] for name in COMMANDS)]
    code = HELP.format(all=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {name for name in loaded if re.match(r"tritter_jax\.(?!cli\b)", name)} == set()
    assert not loaded & {f"tprog.{name}" for name in ("schema", "reader", "verify", "weights", "hub", "card")}
    names = {re.split(r"[^\w.-]", each)[0].replace("-", "_") for each in requirements()} | {"orbax"}
    assert names & loaded <= HELP_NEEDS


COLOUR = re.compile(r"\x1b\[[0-9;]*?(?<![0-9])(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?![0-9])[0-9;]*m")


@pytest.mark.parametrize("words", [("--help",), ("info", "./nowhere")])
def test_no_colour_where_none_is_wanted(words):
    code = "from tritter_jax.cli.main import main; main()"
    seen = []
    for chosen in ({}, {"NO_COLOR": "1"}):
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        environment |= {"FORCE_COLOR": "1", "TERM": "xterm-256color", **chosen}
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment, check=False
        )
        seen.append(bool(COLOUR.search(done.stdout + done.stderr)))
    assert seen == [True, False]


def test_nothing_is_coloured_past_the_consoles_that_know_of_it():
    for package in (tprog, tritter_jax):
        for path in Path(package.__file__).parent.rglob("*.py"):
            assert not re.search(r"\\x1b|\\033|\\e\[|secho", path.read_text(encoding="utf-8")), path


@pytest.fixture
def made():
    """Runs a program of one command; what that does is put into a list."""
    made = new_app()
    made.callback()(lambda: None)
    work = []

    def sleep() -> None:
        """Sleep a little."""
        work[0]()

    command(made, "sleep")(sleep)

    def run(*words: str) -> None:
        manner.set(Manner())
        made(["sleep", *words], standalone_mode=False)

    return run, work


def test_any_command_that_lasts_is_seen_to_be_at_work(made, monkeypatch, capsys):
    run, work = made
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    for seconds, seen in ((0.3, True), (0.0, False)):
        work[:] = [lambda seconds=seconds: time.sleep(seconds)]
        run()
        assert ("sleep ..." in capsys.readouterr().err) == seen
    work[:] = [lambda: time.sleep(0.3)]
    run("--quiet")
    assert capsys.readouterr().err == ""


def test_quiet_silences_what_libraries_say_as_well(made, caplog):
    run, work = made

    def grumble() -> None:
        logging.getLogger("library").warning("trying again")
        warnings.warn("old", UserWarning, stacklevel=1)

    work[:] = [grumble]
    run("--quiet")
    assert caplog.text == ""
    with pytest.warns(UserWarning, match="old"):
        run()
    assert "trying again" in caplog.text


def test_verbose_tells_versions_time_and_where_an_error_arose(tritter):
    outcome = tritter("sizes", "--verbose")
    assert re.search(r"tritter-jax \S+, Python 3\.\d+", outcome.err)
    assert re.search(r"took \d+\.\d s", outcome.err)
    assert "took" not in tritter("sizes").err
    assert "Traceback" in tritter("info", "./nowhere", "--verbose").err
    assert "Traceback" not in tritter("info", "./nowhere").err


def test_options_of_all_commands_may_come_first(tritter):
    assert tritter("--json", "sizes").json == tritter("sizes", "--json").json
    assert "error" in tritter("--json", "info", "./nowhere").json
    assert tritter("sizes").out[0] != "{"
