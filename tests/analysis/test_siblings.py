"""What is recommended where no named size fits: the next published sibling, or the model's own proportions."""

from dataclasses import replace

import pytest
from tprog import ModelConfig, count_parameters
from tprog.config import SIZE_FIELDS
from tprog.schema import Progressive

from tritter_jax.analysis import advise
from tritter_jax.analysis.machine import Memory
from tritter_jax.analysis.siblings import PUBLISHED, proportioned
from tritter_jax.analysis.target import SAFE_FACTOR, factor_between, next_target


def model(shape, family="llama", vocabulary=49152):
    return ModelConfig(family=family, vocab_size=vocabulary, **dict(zip(SIZE_FIELDS, shape, strict=True)))


def shape_of(config):
    return tuple(getattr(config, name) for name in SIZE_FIELDS)


@pytest.mark.parametrize(
    ("series", "family", "place", "due"),
    [("SmolLM2", "llama", 0, 1), ("Qwen2.5", "qwen2", 1, 2), ("Qwen3", "qwen3", 0, 1)],
)
def test_the_next_published_sibling_is_recommended(series, family, place, due):
    shapes = PUBLISHED[series]
    assert shape_of(next_target(model(shapes[place], family))) == shapes[due]


def test_series_are_of_ascending_size():
    for shapes in PUBLISHED.values():
        counts = [count_parameters(model(shape)) for shape in shapes]
        assert counts == sorted(counts)


def test_a_shape_of_no_series_keeps_its_proportions_in_whole_groups_of_heads():
    odd = replace(model(PUBLISHED["SmolLM2"][0]), num_layers=29)
    target = next_target(odd)
    assert target.num_heads / target.num_kv_heads == 3
    assert target.hidden_size == target.num_heads * target.head_dim > odd.hidden_size
    assert 1 < factor_between(odd, target) <= SAFE_FACTOR
    assert target in proportioned(odd)


def test_tokens_seen_that_are_given_make_the_advice_on_when_to_grow():
    config = model(PUBLISHED["SmolLM2"][0])
    choices = (config, Progressive.of(config), Memory(10**12, "a TPU"))
    assert advise(*choices).grow_now is None
    late, early = (advise(*choices, tokens_seen=seen) for seen in (2e12, 1e6))
    assert late.grow_now
    assert not early.grow_now
    assert "2" in late.record.reason
