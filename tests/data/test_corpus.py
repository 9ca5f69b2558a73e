"""What --data may name."""

import os
import subprocess
import sys

import pytest
from tprog import FormatError, UsageError

from tritter_jax.data import BUILTIN, open_corpus


@pytest.fixture
def folder(tmp_path):
    for name, data in {
        "b.txt": b"bee",
        "a.md": b"ay",
        "deep/er/c.py": b"see",
        "empty.txt": b"",
        "image.png": b"\x89PNG\0\0",
        ".hidden": b"secret",
        ".git/config": b"secret",
    }.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "folder"


def contents(corpus):
    return {document.name: document.text for document in corpus}


def test_a_file_is_one_document(folder):
    assert contents(open_corpus(folder / "b.txt")) == {"b.txt": "bee"}


def test_a_directory_gives_its_text_files_in_order(folder):
    corpus = open_corpus(folder)
    assert list(contents(corpus).items()) == [("a.md", "ay"), ("b.txt", "bee"), ("deep/er/c.py", "see")]
    assert corpus.skipped == ("image.png",)
    assert (corpus.label, corpus.size, len(corpus)) == ("folder", 8, 3)


def test_a_glob_names_documents_from_its_last_plain_folder(folder):
    assert contents(open_corpus(f"{folder}/*.[mt]*")) == {"a.md": "ay", "b.txt": "bee"}
    assert contents(open_corpus(f"{folder}/**/*.py")) == {"deep/er/c.py": "see"}
    assert contents(open_corpus(f"{folder.parent}/fold*/deep/*/*")) == {"folder/deep/er/c.py": "see"}


def test_relative_paths_and_home(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    assert contents(open_corpus("*.md")) == contents(open_corpus("~/*.md")) == contents(open_corpus("a.md"))


def test_names_are_free_of_machine_paths(folder):
    for spec in (folder, f"{folder}/**/*.py", folder / "b.txt", *(f"builtin:{name}" for name in BUILTIN)):
        assert not any(document.name.startswith("/") for document in open_corpus(spec))


def test_the_fingerprint_follows_names_and_changes_of_files(folder):
    first = open_corpus(folder).fingerprint
    assert open_corpus(folder).fingerprint == first
    (folder / "b.txt").rename(folder / "bb.txt")
    renamed = open_corpus(folder).fingerprint
    (folder / "bb.txt").write_text("BEE")
    os.utime(folder / "bb.txt", ns=(1, 1))
    changed = open_corpus(folder).fingerprint
    assert len({first, renamed, changed}) == 3


def test_the_built_in_corpora_are_what_they_say():
    prose, code = open_corpus("builtin:prose"), open_corpus("builtin:code")
    assert len(prose) > 50
    assert prose.size > 300_000
    assert 'The "if" statement' in next(document.text for document in prose if document.name == "if")
    names = [document.name for document in code]
    assert names == sorted(names)
    assert {"abc.py", "json/decoder.py"} <= set(names)
    assert not any(part in name.split("/") for name in names for part in ("test", "tests", "site-packages"))
    assert code.size > 5_000_000


def test_built_in_corpora_are_the_same_in_every_process():
    command = (
        "from tritter_jax.data import open_corpus;"
        "print([open_corpus(f'builtin:{n}').fingerprint for n in ('prose', 'code')])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", command], check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("builtin:pros", "Did you mean builtin:prose?"),
        ("builtin:zzz", "builtin:code, builtin:prose"),
        ("nothing.txt", "nothing there"),
        ("nothing/*.txt", "no file at all"),
        ("~nobody-of-that-name/a.txt", "nothing there"),
        ("folder/empty.txt", "an empty file"),
        ("folder/e*", "an empty file"),
        ("void", "no file at all"),
        ("pictures", "1 binary and 0 empty files"),
    ],
)
def test_a_wrong_name_says_what_is_there(folder, monkeypatch, spec, said):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "void").mkdir()
    (folder.parent / "pictures").mkdir()
    (folder.parent / "pictures" / "a.png").write_bytes(b"\0")
    with pytest.raises(UsageError) as caught:
        open_corpus(spec)
    assert said in str(caught.value)


def test_a_binary_file_that_was_named_is_refused_not_skipped(folder):
    for spec in (folder / "image.png", f"{folder}/*.png"):
        with pytest.raises(FormatError, match=r"image\.png: expected UTF-8 text, got a NUL byte at offset 4"):
            contents(open_corpus(spec))
