"""A named size is a target for models of any head_dim: the sizes of published models, each with an exact plan."""

import pytest
from tprog import SIZES, GrowthError, ModelConfig, count_parameters, named_size
from tprog.config import SIZE_FIELDS

from tritter_jax.growth import make_plan, named_target
from tritter_jax.growth.named_target import departures

# From each model's config.json: family, hidden, layers, heads, kv heads, head_dim, feed-forward, vocabulary, tied.
PUBLISHED = {
    "SmolLM2-135M": ("llama", 576, 30, 9, 3, 64, 1536, 49152, True),
    "SmolLM2-360M": ("llama", 960, 32, 15, 5, 64, 2560, 49152, True),
    "SmolLM2-1.7B": ("llama", 2048, 24, 32, 32, 64, 8192, 49152, True),
    "TinyLlama-1.1B": ("llama", 2048, 22, 32, 4, 64, 5632, 32000, False),
    "Llama-3.2-1B": ("llama", 2048, 16, 32, 8, 64, 8192, 128256, True),
    "Llama-3.2-3B": ("llama", 3072, 28, 24, 8, 128, 8192, 128256, True),
    "Qwen2.5-0.5B": ("qwen2", 896, 24, 14, 2, 64, 4864, 151936, True),
    "Qwen2.5-1.5B": ("qwen2", 1536, 28, 12, 2, 128, 8960, 151936, True),
    "Qwen3-0.6B": ("qwen3", 1024, 28, 16, 8, 128, 3072, 151936, True),
    "Qwen3-1.7B": ("qwen3", 2048, 28, 16, 8, 128, 6144, 151936, True),
}


def published(name: str) -> ModelConfig:
    family, hidden, layers, heads, kv_heads, head_dim, mlp, vocab, tied = PUBLISHED[name]
    return ModelConfig(
        family=family, hidden_size=hidden, num_layers=layers, num_heads=heads, num_kv_heads=kv_heads,
        head_dim=head_dim, intermediate_size=mlp, vocab_size=vocab, tie_embeddings=tied,
    )  # fmt: skip


@pytest.mark.parametrize("size", ["1B", "3B", "7B"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_reaches_every_larger_named_size_exactly(name, size):
    source = published(name)
    if count_parameters(source) > count_parameters(source.resized(named_size(size))):
        with pytest.raises(GrowthError, match="target: expected"):
            named_target(source, size)
        return
    target = named_target(source, size)
    assert make_plan(source, target).guarantee.exact
    assert target.head_dim == source.head_dim
    assert target.num_heads * target.head_dim == target.hidden_size >= named_size(size).hidden_size
    # A plan is refused where the size's own head_dim is imposed: what fitting is for.
    if source.head_dim != named_size(size).head_dim:
        with pytest.raises(GrowthError, match="head_dim"):
            make_plan(source, named_target(source, size, exact_shape=True))


def test_3b_from_head_dim_64_has_forty_heads_and_eight_kv_heads():
    target = named_target(published("Qwen2.5-0.5B"), "3B")
    assert (target.hidden_size, target.num_layers, target.num_heads, target.num_kv_heads) == (2560, 26, 40, 8)
    assert target.intermediate_size == 6912
    assert departures(target, "3B") == (
        "3B here has 40 query heads (not 20), 8 kv heads (not 4), head_dim 64 (not 128)"
    )


def test_a_source_of_the_sizes_own_head_dim_takes_its_shape():
    source = named_size("3B")
    assert named_target(source, "7B") == named_size("7B")
    assert departures(named_size("7B"), "7B") == ""


def test_no_dimension_shrinks():
    source = published("Llama-3.2-1B")
    target = named_target(source, "3B")
    assert all(getattr(target, field) >= getattr(source, field) for field in SIZE_FIELDS)
    assert target.intermediate_size == 8192 > SIZES["3B"][-1]


@pytest.mark.parametrize(
    ("source", "size", "told"),
    [("Llama-3.2-3B", "1B", "larger in no dimension"), ("Qwen2.5-1.5B", "1B", "1,032,701,952 with the source's")],
)
def test_a_size_that_is_not_larger_is_refused(source, size, told):
    with pytest.raises(GrowthError, match=told):
        named_target(published(source), size)


def test_bitnet_keeps_as_many_heads_as_its_width():
    source = ModelConfig(
        family="bitnet", hidden_size=1024, num_layers=8, num_heads=16, num_kv_heads=4, intermediate_size=2048
    )
    target = named_target(source, "3B")
    assert target.num_heads * target.head_dim == target.hidden_size == 2560


def test_heads_that_cannot_be_regrouped_get_more_kv_heads():
    target = named_target(named_size("13B"), "30B")
    assert (target.num_heads, target.num_kv_heads) == (52, 26)
    with pytest.raises(GrowthError):
        make_plan(named_size("13B"), named_target(named_size("13B"), "30B", exact_shape=True))
