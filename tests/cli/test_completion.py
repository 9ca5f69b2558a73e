"""What the scripts of `tritter completion` complete, in the shells that are here."""

import os
import shutil
import subprocess
import sys

import pytest


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A `tritter` on the path, an environment to run it in, and an empty directory to run it from."""
    path = tmp_path / "bin" / "tritter"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nfrom tritter_jax.cli.main import main\nmain()\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return path


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | environment, stdin=subprocess.DEVNULL
    )
    return done.stdout


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["re"], {"recommend", "report"}),
        (["tpu", ""], {"check", "plan"}),
        (["expand", "--refresh"], {"--refresh-fisher"}),
        (["plan", "--to", "12"], {"125M"}),
        (["plan", "--depth", "s"], {"solar", "stack"}),
        (["verify", "b"], {"b.tprog"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes(program, words, found):
    for name in ("a.tprog", "b.tprog"):
        os.mkdir(name)  # noqa: PTH102
    script = run("tritter", "completion", "bash")
    line = " ".join(f"'{word}'" for word in ["tritter", *words])
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _tritter_completion tritter"
    ask += '; printf "%s\\n" "${COMPREPLY[@]}"'
    assert set(run("bash", "-c", f"{script}\n{ask}").split()) == found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_the_other_shells_ask_what_is_answered(program, shell):
    script = run("tritter", "completion", shell)
    asked = {"_TYPER_COMPLETE_ARGS": "tritter re", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert f"_TRITTER_COMPLETE=complete_{shell}" in script
    answer = run("tritter", _TRITTER_COMPLETE=f"complete_{shell}", **asked)
    assert "recommend" in answer
    assert "report" in answer
    assert "verify" not in answer
    if (found := shutil.which(shell)) is not None:
        run(found, "-n", "-c", script)


def test_the_help_says_what_zsh_needs_besides(tritter):
    said = " ".join(tritter("completion", "--help").out.replace("│", " ").split())
    assert "mkdir -p" in said
    assert "fpath=(~/.zfunc $fpath)" in said


def test_the_shell_at_hand_is_taken_where_none_is_named(tritter, monkeypatch):
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert tritter("completion", "--json").json["shell"] == "fish"
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert "bash, zsh, fish" in tritter("completion").error
