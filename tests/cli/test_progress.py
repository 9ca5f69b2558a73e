"""What a user sees while a checkpoint grows: a bar of bytes with the time left, or lines off a terminal."""

import io
import re

from rich.console import Console

from tritter_jax.cli.progress import Stages


def shown(*, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    stage = Stages(console, patience=0.0)
    stage("growing")
    for done in range(0, 1001, 10):
        stage.advance(done * 10**6, 10**9)
    stage("checking")
    stage.finish()
    return console.file.getvalue()


def test_off_a_terminal_each_tenth_is_a_line():
    lines = shown(terminal=False).splitlines()
    told = [line for line in lines if "% of 1 GB" in line]
    assert [int(re.search(r"(\d+) %", line)[1]) for line in told] == list(range(10, 100, 10))
    assert all("s left" in line for line in told)
    assert [line.partition(":")[0] for line in lines if line not in told and "..." not in line] == [
        "growing",
        "checking",
    ]
    assert "\x1b" not in "".join(lines)


def test_off_a_terminal_lines_do_not_come_too_fast():
    console = Console(file=io.StringIO(), force_terminal=False, width=100)
    stage = Stages(console, patience=60.0)
    stage("training")
    for done in range(1, 101):
        stage.advance(done, 100, "steps", "loss 2.0")
    stage.finish()
    assert re.fullmatch(r"training: \d+\.\d s\n", console.file.getvalue())


def test_steps_are_counted_with_what_there_is_to_say_of_them():
    for terminal, said in ((False, r"training: 50 % of 10 steps, \d+ s left, loss 2\.0"), (True, "5/10.*loss 2\\.0")):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
        stage = Stages(console, patience=0.0)
        stage("training")
        stage.advance(5, 10, "steps", "loss 2.0")
        stage.finish()
        assert re.search(said, console.file.getvalue())


def test_on_a_terminal_there_is_a_bar_with_bytes_and_time_left():
    text = shown(terminal=True)
    assert re.search(r"growing .*\d+\.\d/1\.0 GB", text)
    assert re.search(r"\d:\d\d:\d\d", text)
    assert "% of" not in text


def test_a_stage_that_ends_while_it_is_told_was_an_error_in_the_timers_thread():
    class Ending(Stages):
        """One whose stage ends right after it was seen to run."""

        def __getattribute__(self, name):
            found = super().__getattribute__(name)
            if name == "_running":
                self._running = None
            return found

    console = Console(file=io.StringIO(), width=100)
    stage = Ending(console, patience=60.0)
    stage.unseen("waiting")
    stage._say()
    stage.stop()
    assert console.file.getvalue() == "waiting ...\n"


def test_on_a_terminal_names_are_shown_as_they_are():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None, emoji=False)
    stage = Stages(console, patience=0.0)
    for name in ("a:smile:b [c]", "d:smile:e [f]"):
        stage(name)
        if name.startswith("d"):
            stage.advance(5, 10, "steps", ":smile: [g]")
    stage.finish()
    text = console.file.getvalue()
    assert "a:smile:b [c] ..." in text
    assert re.search(r"d:smile:e \[f\] .*:smile: \[g\]", text)
