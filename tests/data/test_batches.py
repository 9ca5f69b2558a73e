"""Batches are the same everywhere, differ by epoch and seed, leave nothing out, and resume where they stopped."""

import itertools
import json

import numpy as np
import pytest
from tprog import UsageError

from tests.data.conftest import corpus_of, numbered
from tritter_jax.data import byte_tokenizer, eval_batches, tokenize, train_batches

B, S = 8, 32


@pytest.fixture
def serve(token_file):
    """Make training batches and close them afterwards."""
    opened = []

    def make(data=token_file, **options):
        opened.append(train_batches(data, **({"batch_size": B, "sequence_length": S} | options)))
        return opened[-1]

    yield make
    for batches in opened:
        batches.close()


def take(batches, count):
    return np.stack([batch.tokens for batch in itertools.islice(batches, count)])


def rows_of(batches, count):
    """`count` rows, whatever the batch."""
    found = list(itertools.islice((row for batch in batches for row in batch.tokens), count))
    return np.stack(found)


def test_a_batch_is_rows_of_the_stream(serve, token_file):
    batch = next(serve())
    assert (batch.tokens.shape, batch.tokens.dtype) == ((B, S + 1), np.int32)
    assert (batch.weights.shape, batch.weights.dtype, batch.weights.min()) == ((B, S), np.float32, 1)
    ring = token_file.train.tokens.astype(np.uint16)
    ring = np.concatenate([ring, ring[: S + 1]]).tobytes()
    assert all(row.astype(np.uint16).tobytes() in ring for row in batch.tokens)


def test_an_epoch_scores_every_token_once_but_for_a_rest(serve, token_file):
    length = 37  # does not divide the ring
    batches = serve(batch_size=1, sequence_length=length)
    ring = token_file.train.tokens
    per_epoch = batches.rows_per_epoch
    assert per_epoch == len(ring) // length
    turned = []
    for _ in range(3):
        targets = take(batches, per_epoch)[:, 0, 1:].ravel()
        left = len(ring) - len(targets)
        assert 0 < left < length
        counts = np.bincount(ring, minlength=257) - np.bincount(targets, minlength=257)
        assert (counts >= 0).all()
        assert counts.sum() == left
        turned.append(tuple(counts))
    assert batches.epoch == 3
    assert len(set(turned)) > 1  # what is left out differs by epoch


def test_the_windows_of_an_epoch_do_not_overlap(serve, token_file):
    batches = serve(batch_size=1)
    ring = token_file.train.tokens.tolist()
    doubled = ring + ring
    text = bytes(min(i, 255) for i in doubled)
    starts = []
    for row in take(batches, batches.rows_per_epoch)[:, 0]:
        place = text.find(bytes(min(int(i), 255) for i in row))
        assert place >= 0
        starts.append(place % len(ring))
    assert len(set(starts)) == len(starts)
    gaps = np.diff(np.sort(starts))
    assert gaps.min() >= S


def test_epochs_and_seeds_have_their_own_order(serve):
    one = serve(batch_size=1)
    first, second = take(one, one.rows_per_epoch), take(one, one.rows_per_epoch)
    other = take(serve(batch_size=1, seed=1), one.rows_per_epoch)
    again = take(serve(batch_size=1), one.rows_per_epoch)
    np.testing.assert_array_equal(first, again)
    assert not any((a == b).all() for a, b in zip(first, second, strict=True))
    # A second epoch is not the first one of the next seed.
    for stranger in (second, other):
        assert (first == stranger).all(axis=(1, 2)).mean() < 0.05
    assert (second == other).all(axis=(1, 2)).mean() < 0.05


def test_the_order_is_shuffled(serve, token_file):
    rows = take(serve(batch_size=1), 50)[:, 0]
    ring = token_file.train.tokens.tolist()
    text = bytes(min(i, 255) for i in ring + ring)
    places = [text.find(bytes(min(int(i), 255) for i in row)) % len(ring) for row in rows]
    neighbours = sum((b - a) % len(ring) == S for a, b in itertools.pairwise(places))
    assert neighbours < 10


def test_no_row_holds_a_word_of_a_held_out_document(serve, token_file):
    tokenizer = byte_tokenizer()
    held = set(tokenizer.decode(token_file.held_out.tokens).replace("<|endoftext|>", " ").split())
    assert held
    batches = serve(batch_size=1)
    seen = set()
    for row in take(batches, 2 * batches.rows_per_epoch)[:, 0]:
        # The words at the ends may be cut.
        seen |= set(tokenizer.decode(row).replace("<|endoftext|>", " ").split(" ")[1:-1])
    assert not seen & held
    assert len(seen) > 500


@pytest.mark.parametrize("count", [2, 4, 8])
def test_processes_together_serve_the_batch_of_one(serve, count):
    whole = take(serve(), 30)
    parts = [take(serve(process_index=i, process_count=count), 30) for i in range(count)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("stop", [0, 1, 5, 40])
def test_it_resumes_where_it_stopped(serve, stop):
    uninterrupted = take(serve(), stop + 20)
    first = serve()
    for _ in range(stop):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    second = serve()
    next(second)
    second.set_state(state)
    assert second.get_state() == state
    np.testing.assert_array_equal(take(second, 20), uninterrupted[stop:])


def test_it_resumes_with_another_number_of_processes_and_another_batch(serve):
    whole = rows_of(serve(), 400)
    first = serve(process_index=1, process_count=2)
    take(first, 7)
    state = first.get_state()
    assert state["rows"] == 7 * B

    parts = []
    for index in range(4):
        part = serve(process_index=index, process_count=4)
        part.set_state(state)
        parts.append(take(part, 5))
    rows = np.concatenate(parts, axis=1).reshape(-1, S + 1)
    np.testing.assert_array_equal(rows, whole[7 * B : 12 * B])

    wider = serve(batch_size=12)
    wider.set_state(state)
    np.testing.assert_array_equal(rows_of(wider, 60), whole[7 * B : 7 * B + 60])
    assert wider.get_state()["rows"] == 7 * B + 60


def test_seeking_far_takes_no_longer_than_seeking_near(serve):
    batches = serve()
    batches.set_state({**batches.get_state(), "rows": 10**12})
    assert next(batches).tokens.shape == (B, S + 1)
    assert batches.get_state()["rows"] == 10**12 + B


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed: expected 0, got 1"),
        ({"sequence_length": 64}, "sequence_length"),
        ({"data": "f00"}, "data"),
        ({"version": 2}, "version"),
        ({"rows": -1}, "get_state"),
        ({"rows": "7"}, "get_state"),
        ({"rows": 2**60}, "get_state"),
        ({"rows": True}, "get_state"),
        ({"more": 1}, "get_state"),
    ],
)
def test_a_place_in_other_data_is_refused_and_nothing_moves(serve, change, said):
    batches = serve()
    first = take(batches, 2)
    with pytest.raises(UsageError, match=said):
        batches.set_state({**batches.get_state(), **change})
    assert batches.rows == 2 * B
    assert not (next(batches).tokens == first[-1]).all()


def test_the_same_texts_elsewhere_are_the_same_data(serve, token_file, tmp_path):
    tokenizer = byte_tokenizer()
    again = tokenize(corpus_of(*numbered(), label="b"), tokenizer, held_out=0.2, cache=tmp_path)
    other = tokenize(corpus_of(*numbered()[:-1]), tokenizer, held_out=0.2, cache=tmp_path)
    assert again.path != token_file.path
    state = serve().get_state()
    serve(again).set_state(state)
    with pytest.raises(UsageError, match="data"):
        serve(other).set_state(state)


def test_data_of_one_row_will_do_and_less_will_not(serve, tmp_path):
    file = tokenize(corpus_of("x" * 33, "y"), byte_tokenizer(), held_out=0, cache=tmp_path)
    assert take(serve(file, sequence_length=35), 3).shape == (3, B, 36)
    with pytest.raises(UsageError, match="more than 36 tokens"):
        serve(file, sequence_length=36)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 9, "process_count": 2}, "multiple of the 2 processes, got 9. Choose 10"),
        ({"batch_size": 0}, "batch_size"),
        ({"sequence_length": 0}, "sequence_length"),
        ({"process_index": 2, "process_count": 2}, "0 to 1, got 2"),
        ({"process_count": 0}, "process_count"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"vocab_size": 256}, "got the id 256"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(serve, token_file, options, said):
    with pytest.raises(UsageError) as caught:
        serve(**options)
    assert said in str(caught.value)
    if "seed" not in options:
        with pytest.raises(UsageError):
            eval_batches(token_file, **({"batch_size": B, "sequence_length": S} | options))


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("length", [1, 7, 32, 5000])
def test_evaluation_scores_each_token_once_in_order(token_file, batch, length):
    held = token_file.held_out
    batches = eval_batches(held, batch_size=batch, sequence_length=length)
    scored, inputs = [], []
    for tokens, weights in batches:
        assert (tokens.shape, weights.shape) == ((batch, length + 1), (batch, length))
        scored.append(tokens[:, 1:][weights == 1])
        inputs.append(tokens[:, :-1][weights == 1])
    np.testing.assert_array_equal(np.concatenate(scored), held.tokens)
    # What each follows is the token before it; the first follows an end of text.
    np.testing.assert_array_equal(np.concatenate(inputs), np.append(held.end_of_text, held.tokens[:-1]))
    assert (batches.tokens, batches.bytes, batches.documents) == (len(held), held.bytes, held.documents)


def test_evaluation_can_be_repeated_and_shared_between_processes(token_file):
    batches = eval_batches(token_file, batch_size=4, sequence_length=S)
    first, second = list(batches), list(batches)
    assert len(first) == len(second) == len(batches)
    parts = [
        list(eval_batches(token_file, batch_size=4, sequence_length=S, process_index=i, process_count=2))
        for i in range(2)
    ]
    for i, whole in enumerate(first):
        for field in range(2):
            np.testing.assert_array_equal(second[i][field], whole[field])
            np.testing.assert_array_equal(np.concatenate([part[i][field] for part in parts]), whole[field])


def test_a_view_of_everything_can_be_evaluated(token_file):
    whole = eval_batches(token_file.everything, batch_size=4, sequence_length=S)
    assert sum(batch.weights.sum() for batch in whole) == len(token_file.ids)


def test_evaluation_of_nothing_is_refused(tmp_path):
    file = tokenize(corpus_of("one", "two"), byte_tokenizer(), held_out=0, cache=tmp_path)
    with pytest.raises(UsageError, match=r"expected held-out documents, got none\. Give more text"):
        eval_batches(file, batch_size=4, sequence_length=S)


def test_batches_wait_ready_while_the_step_runs(serve):
    """Eight batches are read ahead by a thread, so a step finds its batch in memory."""
    import time

    batches = serve(batch_size=8, sequence_length=256)
    next(batches)
    time.sleep(0.2)
    waited = []
    for _ in range(8):
        start = time.perf_counter()
        next(batches)
        waited.append(time.perf_counter() - start)
    assert np.median(waited) < 0.01
