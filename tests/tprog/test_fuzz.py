"""Random changes of well-formed input: refused with an error of ours, or accepted and then as promised."""

import random

import pytest

from tests.tprog import fuzz_readers
from tests.tprog.fuzz_readers import changed_json, run_one, seeds

TOKENS = [
    b'{"', b'":', b"[", b"]", b"}", b",", b"0", b"-1", b"1e999", b"NaN", b"null", b"true", b'"F32"', b"\\u0061",
    b"..", b"/", b"\xff", b"\0", b'"data_offsets":', b'"format_version":', b"9" * 400, b"[" * 3000, b'{"a":' * 3000,
]  # fmt: skip


def changed(data: bytes, chooser: random.Random) -> bytes:
    if chooser.random() < 0.5:
        return changed_json(data, chooser)
    content = bytearray(data)
    for _ in range(chooser.choice((1, 1, 2, 4))):
        place = chooser.randrange(1, len(content) + 1)
        kind = chooser.randrange(4)
        if kind == 0 and place < len(content):
            content[place] = chooser.randrange(256)
        elif kind == 1:
            del content[place : place + chooser.randrange(1, 9)]
        elif kind == 2:
            content[place:place] = chooser.choice(TOKENS)
        else:
            start = chooser.randrange(1, len(content) + 1)
            content[place:place] = content[start : start + chooser.randrange(1, 40)]
    return bytes(content)


def test_the_seeds_are_accepted():
    assert all(run_one(seed) for seed in seeds())


@pytest.mark.parametrize("rounds", [500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_changed_seeds_never_escape(rounds):
    chooser = random.Random(11)
    pool = seeds()
    accepted = [run_one(changed(chooser.choice(pool), chooser)) for _ in range(rounds)]
    assert 0 < sum(accepted) < rounds, "both outcomes are met"


def test_the_targets_can_fail(monkeypatch):
    """A reader that forgets where tensors begin is caught by the target."""
    real = fuzz_readers.tprog.tensorheader.parse_header

    def broken(data, size, where):
        found = real(data, size, where)
        return type(found)(found.specs, dict.fromkeys(found.offsets, 0), found.metadata, found.file_size)

    monkeypatch.setattr(fuzz_readers.tprog.tensorheader, "parse_header", broken)
    with pytest.raises(AssertionError):
        run_one(seeds()[0])
