"""A corpus is tokenised once; a token file is whole, or made anew; held-out documents stay out."""

import dataclasses
import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tprog import FormatError, UsageError

from tests.data.conftest import corpus_of, numbered
from tritter_jax.data import (
    Corpus,
    Document,
    TokenView,
    byte_tokenizer,
    cache,
    open_corpus,
    open_tokens,
    tokenize,
    train_bpe,
    writing,
)
from tritter_jax.data.split import choose_held_out

BYTES = byte_tokenizer()


def texts_of(view):
    """The documents of a view, decoded."""
    return BYTES.decode(view.tokens).split("<|endoftext|>")[:-1]


def test_the_file_holds_every_document_and_an_end_after_each(tmp_path):
    texts = ["one", "zwei 日", "three", "vier"]
    file = tokenize(corpus_of(*texts), BYTES, held_out=0, cache=tmp_path)
    assert texts_of(file.train) == texts
    assert len(file.held_out) == file.held_out.documents == file.held_out.bytes == 0
    assert file.train.bytes == sum(len(text.encode()) for text in texts)
    assert len(file.train) == file.train.bytes + len(texts)
    assert file.max_id == BYTES.end_of_text


def test_a_document_of_one_character_is_not_divided(tmp_path):
    file = tokenize(corpus_of("😀"), BYTES, held_out=0.3, cache=tmp_path)
    assert texts_of(file.train) == ["😀"]
    assert file.held_out.documents == 0


def test_bytes_and_tokens_are_counted_by_side(token_file):
    train, held = token_file.train, token_file.held_out
    assert (train.documents + held.documents, train.bytes + held.bytes) == (40, 40 * 239)
    for view in (train, held):
        assert view.bytes == 239 * view.documents == len(view) - view.documents
    assert token_file.everything.bytes == 40 * 239


def test_no_held_out_document_is_in_the_training_documents(token_file):
    train, held = texts_of(token_file.train), texts_of(token_file.held_out)
    assert held
    assert sorted(train + held) == numbered()
    assert not set(train) & set(held)


def test_long_documents_are_encoded_in_parts_as_a_whole(tmp_path, monkeypatch):
    bpe = train_bpe((document.text for document in open_corpus("builtin:prose")), 400)
    documents = open_corpus("builtin:prose").documents[:6]
    whole = [i for document in documents for i in [*bpe.encode(document.text).tolist(), bpe.end_of_text]]
    monkeypatch.setattr("tritter_jax.data.text.PIECE", 700)
    monkeypatch.setattr(writing, "_BATCH", 2000)
    file = tokenize(Corpus(label="p", documents=documents), bpe, held_out=0, cache=tmp_path)
    assert file.train.tokens.tolist() == whole


@pytest.mark.parametrize(("size", "dtype"), [(65536, "uint16"), (65537, "uint32")])
def test_ids_are_two_bytes_where_the_vocabulary_fits(tmp_path, monkeypatch, size, dtype):
    tokenizer = byte_tokenizer()
    tokenizer.vocab_size = size
    file = tokenize(corpus_of("abc", "xyz"), tokenizer, cache=tmp_path)
    assert (file.ids.dtype, file.everything.tokens[:3].tolist()) == (dtype, [97, 98, 99])


class Counting:
    """Counts how often a text is read."""

    def __init__(self, texts):
        self.reads = 0
        self.documents = tuple(
            Document(name=str(i), size=len(text), stamp=text, read=lambda text=text: self.read(text))
            for i, text in enumerate(texts)
        )

    def read(self, text):
        self.reads += 1
        return [text]

    @property
    def corpus(self):
        return Corpus(label="counting", documents=self.documents)


def test_it_is_made_once_and_made_again_when_something_differs(tmp_path):
    counting = Counting(["one two", "three four", "five six"])
    calls = []
    first = tokenize(counting.corpus, BYTES, cache=tmp_path, progress=lambda *at: calls.append(at))
    assert (counting.reads, calls[-1]) == (3, (counting.corpus.size, counting.corpus.size))
    again = tokenize(counting.corpus, BYTES, cache=tmp_path, progress=lambda *at: calls.append(at))
    assert (counting.reads, again.path, len(calls)) == (3, first.path, 1)

    others = [
        tokenize(counting.corpus, BYTES, cache=tmp_path, held_out=0.4),
        tokenize(counting.corpus, train_bpe(["one one two"], 260), cache=tmp_path),
        tokenize(Counting(["one two", "three four", "5ive six"]).corpus, BYTES, cache=tmp_path),
        tokenize(counting.corpus, BYTES, cache=tmp_path / "elsewhere"),
    ]
    assert len({file.path for file in [first, *others]}) == 5
    assert counting.reads == 3 * 4


def test_the_default_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tokenize(corpus_of("one", "two"), BYTES)
    assert file.path.parent == tmp_path / "tritter" / "tokens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_directory() == tmp_path / ".cache" / "tritter" / "tokens"


def flip(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def grow(path: Path):
    path.write_bytes(path.read_bytes() + b"\0\0")


def edit(path: Path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGE = {
    "a flipped bit": lambda d: flip(d / "tokens.bin"),
    "cut short": lambda d: os.truncate(d / "tokens.bin", 100),
    "one token too many": lambda d: grow(d / "tokens.bin"),
    "no tokens": lambda d: (d / "tokens.bin").unlink(),
    "no documents": lambda d: (d / "documents.npy").unlink(),
    "a split that was changed": lambda d: flip(d / "documents.npy"),
    "an empty documents.npy": lambda d: (d / "documents.npy").write_bytes(b""),
    "a pickle": lambda d: np.save(d / "documents.npy", np.array([{}], object), allow_pickle=True),
    "no description": lambda d: (d / "tokens.json").unlink(),
    "a description cut short": lambda d: os.truncate(d / "tokens.json", 40),
    "another version": lambda d: edit(d / "tokens.json", version=99),
    "another dtype": lambda d: edit(d / "tokens.json", dtype="uint32"),
    "no dtype": lambda d: edit(d / "tokens.json", dtype="nonsense"),
    "no hashes": lambda d: edit(d / "tokens.json", sha256={}),
    "no numbers": lambda d: edit(d / "tokens.json", max_id="many"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_when_opened_and_made_anew_by_tokenize(tmp_path, damage):
    corpus = corpus_of(*numbered(5))
    whole = tokenize(corpus, BYTES, cache=tmp_path)
    expected = whole.everything.tokens.copy()
    DAMAGE[damage](whole.path)
    with pytest.raises(FormatError):
        open_tokens(whole.path)
    again = tokenize(corpus, BYTES, cache=tmp_path)
    assert again.path == whole.path
    np.testing.assert_array_equal(again.everything.tokens, expected)
    assert [entry.name for entry in tmp_path.iterdir()] == [whole.path.name]


def test_a_large_file_is_checked_when_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("tritter_jax.data.tokens._CHECKED", 10)
    file = tokenize(corpus_of(*numbered(5)), BYTES, cache=tmp_path)
    flip(file.path / "tokens.bin")
    with pytest.raises(FormatError, match="another hash"):
        open_tokens(file.path).verify()


def test_a_build_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine" * 10)
    (tmp_path / "b.txt").write_bytes(b"fine" * 10_000 + b"\0")
    with pytest.raises(FormatError, match="NUL byte at offset 40000"):
        tokenize(open_corpus(tmp_path), BYTES, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def _die(folder):
    """Begin a token file and be killed in the middle."""
    documents = list(corpus_of(*numbered(5)).documents)
    documents[3] = dataclasses.replace(documents[3], read=lambda: os.kill(os.getpid(), signal.SIGKILL))
    tokenize(Corpus(label="small", documents=tuple(documents)), BYTES, cache=folder)


def test_what_a_killed_process_left_is_cleared_and_made_anew(tmp_path):
    worker = multiprocessing.get_context("spawn").Process(target=_die, args=(tmp_path,))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert any(entry.suffix == ".tmp" for entry in tmp_path.iterdir())
    file = tokenize(corpus_of(*numbered(5)), BYTES, cache=tmp_path)
    assert file.everything.documents == 5
    assert [entry.name for entry in tmp_path.iterdir()] == [file.path.name]


def _build(folder, barrier, results):
    reads = []
    corpus = corpus_of(*numbered(200, 200))
    first = corpus.documents[0]
    counted = dataclasses.replace(first, read=lambda: reads.append(1) or first.read())
    corpus = Corpus(label="both", documents=(counted, *corpus.documents[1:]))
    barrier.wait()
    file = tokenize(corpus, BYTES, cache=folder)
    results.put((str(file.path), file.digest, len(reads)))


def test_processes_that_start_together_make_it_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_build, args=(tmp_path, barrier, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert len({(path, digest) for path, digest, _ in outcomes}) == 1
    assert sum(reads for *_, reads in outcomes) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="expected a cache directory"):
        tokenize(corpus_of("one", "two"), BYTES, cache=tmp_path / "file")


@pytest.mark.parametrize("share", [-0.1, 0.6, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(tmp_path, share):
    with pytest.raises(UsageError, match=r"from 0 to 0\.5"):
        tokenize(corpus_of("one", "two"), BYTES, held_out=share, cache=tmp_path)


def test_one_document_is_divided_into_head_and_tail(tmp_path):
    text = " ".join(f"w{i:04d}" for i in range(500))
    file = tokenize(corpus_of(text), BYTES, held_out=0.2, cache=tmp_path)
    (head,), (tail,) = texts_of(file.train), texts_of(file.held_out)
    assert head + tail == text
    assert tail.startswith(" w")
    assert abs(len(tail) / len(text) - 0.2) < 0.01
    assert (file.train.bytes, file.held_out.bytes) == (len(head), len(tail))


def test_copies_of_one_text_are_on_one_side(tmp_path):
    texts = numbered(20)
    file = tokenize(corpus_of(*texts, *texts, *texts), BYTES, held_out=0.3, cache=tmp_path)
    train, held = texts_of(file.train), texts_of(file.held_out)
    assert held
    assert not set(train) & set(held)
    assert all(held.count(text) == 3 for text in held)
    with pytest.raises(UsageError, match="2 with the same text"):
        tokenize(corpus_of("same", "same"), BYTES, cache=tmp_path)


def test_a_document_stays_on_its_side_when_others_come(tmp_path):
    texts = numbered(400, 5)
    half = tokenize(corpus_of(*texts[:200]), BYTES, held_out=0.2, cache=tmp_path)
    both = tokenize(corpus_of(*reversed(texts)), BYTES, held_out=0.2, cache=tmp_path)
    assert set(texts_of(half.held_out)) < set(texts_of(both.held_out))


LENGTHS = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 10**6)), min_size=2, max_size=30)


@given(LENGTHS, st.floats(0.001, 0.5))
def test_both_sides_have_documents_and_the_share_is_not_far_exceeded(rows, fraction):
    hashes = np.array([h for h, _ in rows], np.uint64)
    lengths = np.array([n for _, n in rows], np.int64)
    if len(set(hashes.tolist())) < 2:
        return
    held = choose_held_out(hashes, lengths, fraction)
    assert held.any()
    assert not held.all()
    assert not set(hashes[held].tolist()) & set(hashes[~held].tolist())
    groups = [lengths[hashes == h].sum() for h in set(hashes.tolist())]
    assert lengths[held].sum() <= max(2 * fraction * lengths.sum() + 1e-6, min(groups))


@given(st.data())
def test_a_view_reads_across_its_runs(data):
    ids = np.arange(60, dtype=np.uint16)
    cuts = sorted(data.draw(st.sets(st.integers(0, 60), min_size=2, max_size=10)))
    runs = np.array(list(zip(cuts[::2], cuts[1::2], strict=False)), np.int64)
    plain = np.concatenate([ids[a:b] for a, b in runs])
    view = TokenView(ids, runs, 1, 1, 0, 59, "")
    np.testing.assert_array_equal(view.tokens, plain)
    start, count = data.draw(st.integers(0, len(plain))), data.draw(st.integers(0, 70))
    np.testing.assert_array_equal(view.read(start, count), plain[start : start + count])
    np.testing.assert_array_equal(view.around(start, count), np.resize(np.roll(plain, -start), count))


def test_a_token_beyond_the_vocabulary_is_refused(token_file):
    token_file.check_vocabulary(257)
    with pytest.raises(UsageError, match="below the model's vocab_size 256, got the id 256"):
        token_file.check_vocabulary(256)


def test_a_corpus_of_one_large_file_is_not_held_in_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "large.txt"
    path.write_text("some words and a line\n" * 1_400_000)  # 31 MB
    tracemalloc.start()
    try:
        file = tokenize(open_corpus(path), BYTES, held_out=0.1, cache=tmp_path / "cache")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.held_out.documents == 1
    assert peak < path.stat().st_size / 3  # 0.17 of the file; holding it, 1.6 times
