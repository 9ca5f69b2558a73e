"""Texts are read in pieces without a character or a token changing."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tprog import FormatError

from tritter_jax.data import text, train_bpe
from tritter_jax.data.corpus import Document
from tritter_jax.data.text import cut_pieces, file_pieces, split_head

WORDS = st.text(alphabet=st.sampled_from("ab1é日 \n\t.,'"), max_size=200)


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(["ab a b aab bba . , 'a 'b 11 1a é 日日\n\n  a\n b\t\ta"] * 3, 300)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(text, "PIECE", 16)


@given(texts=st.lists(WORDS, max_size=4))
def test_pieces_join_to_the_text(texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "PIECE", 16)
        pieces = list(cut_pieces(texts))
    assert "".join(pieces) == "".join(texts)
    assert all(0 < len(piece) <= 16 for piece in pieces)


@given(whole=st.text(alphabet=st.sampled_from("ab1é \n.'"), min_size=40, max_size=200))
def test_pieces_encode_to_the_tokens_of_the_whole(bpe, whole):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "PIECE", 30)
        pieces = list(cut_pieces([whole]))
    # Where no place was found within a piece, it was cut at its limit; with real text that does not happen.
    proper = all(piece[-1].isalnum() and after[0].isspace() for piece, after in pairwise(pieces))
    if proper:
        joined = [i for ids in bpe.encode_batch(pieces) for i in ids]
        assert joined == bpe.encode(whole).tolist()


def test_cutting_anywhere_would_change_tokens(bpe):
    """The control of the test above."""
    whole = "aab bba"
    joined = [i for ids in bpe.encode_batch([whole[:2], whole[2:]]) for i in ids]
    assert joined != bpe.encode(whole).tolist()


@given(whole=WORDS, size=st.integers(0, 100))
def test_a_head_is_no_longer_than_asked_and_the_tail_is_the_rest(whole, size):
    head, tail = ("".join(part) for part in split_head([whole[:50], whole[50:]], size))
    assert head + tail == whole
    # One character at least goes into the head of a piece that is longer than the room left.
    assert len(head.encode()) <= max(size, 0) + 4


def test_a_text_is_divided_without_being_held():
    read, taken = [], []
    source = (read.append(number) or "some words " for number in range(100))
    for part in split_head(source, 505):
        for piece in part:
            taken.append(piece)
            assert len(read) <= len(taken)  # nothing is read before it is asked for
    assert len(read) == 100
    assert len(taken) == 101  # the piece in the middle was cut


def test_cutting_takes_time_in_proportion_to_the_length():
    def took(size: int) -> float:
        whole = "some words " * (size // 11)
        begun = time.process_time()
        assert sum(map(len, Document.of("a", whole).read())) == len(whole)
        return time.process_time() - begun

    took(1 << 22)
    assert took(1 << 26) < 64 * took(1 << 22)  # 16 times as long; copying the rest for each piece takes 256 times


@pytest.mark.parametrize("size", [1, 15, 16, 17, 33, 400])
def test_a_file_of_any_length_is_read_whole(tmp_path, small_pieces, size):
    whole = ("日本 élan " * 50)[:size]
    path = tmp_path / "a.txt"
    path.write_text(whole, encoding="utf-8")
    assert "".join(file_pieces(path)) == whole


def test_line_ends_are_kept_and_a_byte_order_mark_is_not(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\r".encode())
    assert "".join(file_pieces(path)) == "one\r\ntwo\r"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"abc\0def", "a NUL byte at offset 3"),
        (b"x" * 40 + b"\0", "a NUL byte at offset 40"),
        (b"abc\xff", "a byte that is not UTF-8 at offset 3"),
        (b"x" * 40 + b"\xe9t\xe9", "a byte that is not UTF-8 at offset 40"),
        ("日".encode() * 12 + b"\x80", "a byte that is not UTF-8 at offset 36"),
        (b"x" * 31 + "日".encode()[:2], "a byte that is not UTF-8 at offset 31"),
        (b"x" * 31 + "日".encode()[:2] + b"x" * 20, "a byte that is not UTF-8 at offset 31"),
    ],
)
def test_what_is_not_text_is_named_with_its_offset(tmp_path, small_pieces, data, said):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        list(file_pieces(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
