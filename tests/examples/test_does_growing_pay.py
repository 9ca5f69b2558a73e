"""Does growing pay? The comparison itself: equal FLOPs, nothing run twice, growth that changes nothing."""

import pytest
from tprog import UsageError

from examples.does_growing_pay import recovery
from examples.does_growing_pay.report import table
from examples.does_growing_pay.results import complete, place
from examples.does_growing_pay.settings import Settings
from examples.does_growing_pay.training import Trainer
from examples.does_growing_pay.variants import SCRATCH, WIDTH, Variant
from tritter_jax.data import byte_tokenizer, open_corpus, tokenize

TINY = Settings(steps=8, batch_size=2, sequence_length=32, warmup=2, points=2)
COPY = Variant(name="depth x1.5, copy", small="depth", options={"depth": "copy", "positions": "uniform"})
VARIANTS = (SCRATCH, WIDTH, COPY)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    directory = tmp_path_factory.mktemp("texts")
    for number in range(40):
        words = (f"{(number * 7 + place * place) % 97} times " for place in range(60))
        (directory / f"{number}.txt").write_text("".join(words))
    return tokenize(open_corpus(str(directory)), byte_tokenizer(), cache=directory / "cache")


@pytest.fixture(scope="module")
def finished(texts, tmp_path_factory):
    directory = tmp_path_factory.mktemp("results")
    return directory, complete(directory, VARIANTS, TINY, lambda: Trainer(TINY, texts), lambda line: None)


def test_every_variant_spends_the_same(finished):
    spent = {name: runs[0]["flops"] for name, runs in finished[1].items()}
    for name, flops in spent.items():
        assert flops == pytest.approx(spent[SCRATCH.name], rel=0.1), name
    assert finished[1][WIDTH.name][0]["steps"] > TINY.steps


def test_exact_growth_leaves_the_loss_and_copies_of_layers_do_not(finished):
    exact, copied = (finished[1][variant.name][0]["growth"] for variant in (WIDTH, COPY))
    assert exact["after"] == pytest.approx(exact["before"], rel=1e-5)
    assert abs(copied["after"] - copied["before"]) > 1e-3  # the control


def test_what_is_finished_is_not_run_again(finished):
    directory, results = finished

    def never():
        raise AssertionError("a trainer was asked for")

    assert complete(directory, VARIANTS, TINY, never, print) == results
    with pytest.raises(UsageError, match="Choose another directory"):
        complete(directory, VARIANTS, Settings(steps=9), never, print)


def test_a_stopped_comparison_goes_on_with_what_is_missing(finished, texts):
    directory, results = finished
    place(directory, SCRATCH, 0).unlink()
    said = []
    assert complete(directory, VARIANTS, TINY, lambda: Trainer(TINY, texts), said.append) == results
    assert len(said) == 1


def test_the_table_has_a_line_a_variant(finished):
    lines = table(finished[1]).splitlines()
    assert len(lines) == 2 + len(VARIANTS)
    assert "+0.0000" in next(line for line in lines if line.startswith(f"| {SCRATCH.name} "))


def test_recovery_is_counted_from_the_last_loss_above_the_one_before_growing(texts):
    exact, copied = (Trainer(TINY, texts).afterwards(variant, 0, steps=4, every=2) for variant in (WIDTH, COPY))
    assert [tokens for tokens, _ in exact] == [0, 0, 2 * 2 * 32, 4 * 2 * 32]
    assert exact[1][1] == pytest.approx(exact[0][1], rel=1e-5)
    assert abs(copied[1][1] - copied[0][1]) > 1e-3
    assert "| copy | +0.500 | +0.500 | 20 | -0.100 |" in recovery.table({"copy": [[(0, 2.0), (0, 2.5), (20, 1.9)]]})
    assert "later" in recovery.table({"copy": [[(0, 2.0), (0, 1.9), (20, 2.1)]]})
