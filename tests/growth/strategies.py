"""Hypothesis strategies for growths of any size."""

from dataclasses import replace

from hypothesis import strategies as st
from tprog import ModelConfig

from tritter_jax.growth import SPLITS, WIDTH, Plan, make_plan

small = st.integers(1, 6)


@st.composite
def head_patterns(draw: st.DrawFn, *, room: bool = False) -> tuple[int, int, int, int]:
    """Old query and kv heads, new query and kv heads: no fewer, and with `room` for the queries of every kv head."""
    kv, group = draw(small), draw(small)
    new_kv = draw(st.integers(kv, 3 * kv))
    least = -(-group // (new_kv // kv)) if room else -(-kv * group // new_kv)
    return kv * group, kv, new_kv * draw(st.integers(least, 3 * least + 2)), new_kv


@st.composite
def plans(draw: st.DrawFn, **choices: str) -> Plan:
    """A plan that widens mlp and any of hidden and heads, at any ratio, by any strategy and split."""
    heads, kv_heads, new_heads, new_kv_heads = draw(head_patterns(room=True))
    source = ModelConfig(
        hidden_size=draw(st.integers(1, 24)), num_layers=2, num_heads=heads, num_kv_heads=kv_heads, head_dim=2,
        intermediate_size=draw(st.integers(1, 24)), vocab_size=7, tie_embeddings=draw(st.booleans()),
    )  # fmt: skip
    target = replace(
        source,
        hidden_size=source.hidden_size + draw(st.integers(0, 40)),
        num_heads=new_heads,
        num_kv_heads=new_kv_heads,
        intermediate_size=source.intermediate_size + draw(st.integers(1, 40)),
        num_layers=2 + draw(st.integers(0, 2)),
    )
    names = {"width": draw(st.sampled_from(list(WIDTH))), "split": draw(st.sampled_from(list(SPLITS)))}
    return make_plan(source, target, positions="spread", **(names | choices))
