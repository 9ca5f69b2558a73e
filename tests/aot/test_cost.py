"""Compiled programs are counted right: products, bytes, collectives, and loops as often as they run."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tritter_jax.aot.check import whole_gathers
from tritter_jax.aot.cost import program_cost
from tritter_jax.aot.hlo import Program, first_group
from tritter_jax.aot.traffic import product_flops
from tritter_jax.sharding import MeshShape, make_mesh
from tritter_jax.train.config import RunConfig


def cost_of(function, *shapes, shardings=None, out=None):
    placed = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        for shape, sharding in zip(shapes, shardings or [None] * len(shapes), strict=True)
    ]
    text = jax.jit(function, out_shardings=out).lower(*placed).compile().as_text()
    return program_cost(Program.parse(text), slice_devices=8)


def test_a_loop_counts_as_often_as_it_runs():
    def repeated(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0]

    once = cost_of(lambda x, w: jnp.tanh(x @ w), (16, 32), (32, 32))
    often = cost_of(repeated, (16, 32), (32, 32))
    assert once.flops == 2 * 16 * 32 * 32
    assert often.flops == 7 * once.flops
    assert often.unknown == 0


def test_a_loop_of_unknown_length_is_counted_once_and_told():
    def until(x, w):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 9.0, lambda x: x @ w, x)

    cost = cost_of(until, (16, 32), (32, 32))
    assert (cost.unknown, cost.flops) == (1, 2 * 16 * 32 * 32)


def test_slices_of_a_stack_are_read_not_the_whole_of_it_each_time():
    def layers(x, stack):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, stack)[0]

    cost = cost_of(layers, (8, 64), (50, 64, 64))
    stack = 50 * 64 * 64 * 4
    assert stack <= cost.bytes < 5 * stack  # the whole of it fifty times would be 50


@pytest.fixture
def gathered():
    mesh = make_mesh(MeshShape(fsdp=8))
    split, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("fsdp"), PartitionSpec()))
    return cost_of(lambda x: x + 1, (256, 32), shardings=[split], out=whole)


def test_collectives_count_what_each_device_receives(gathered):
    (one,) = gathered.collectives.values()
    assert (one.kind, one.times, one.looped, one.across) == ("all-gather", 1, False, False)
    assert one.received == 256 * 32 * 4 * 7 / 8


def test_a_whole_parameter_gathered_outside_a_loop_is_found(gathered):
    import tprog

    config = tprog.ModelConfig(
        hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48, vocab_size=256
    )
    (said, *_) = whole_gathers(gathered, config, RunConfig())
    assert "all-gather of 8,192 elements" in said
    other = tprog.ModelConfig(
        hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48, vocab_size=320
    )
    assert whole_gathers(gathered, other, RunConfig()) == ()


# What the TPU compiler prints, cut to what is read.
TPU = """
%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8,16]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %two)
  %y = f32[8,16]{1,0:T(8,128)S(1)} copy(%x)
  %moved = (f32[8,16]{1,0}, f32[8,16]{1,0}) collective-permute-start(%x), source_target_pairs={{0,9}}
  %done = f32[8,16]{1,0:T(8,128)} collective-permute-done(%moved)
  ROOT %out = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) tuple(%next, %done)
}

%condition (q: (s32[], f32[8,16])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  %end = s32[]{:T(128)} constant(9)
  ROOT %less = pred[]{:T(512)} compare(%j, %end), direction=LT
}

%all-reduce-scatter.1 (r: f32[8,16]) -> f32[4,16] {
  %r = f32[8,16]{1,0:T(8,128)} parameter(0)
  %sum = f32[8,16]{1,0:T(8,128)} all-reduce(%r), channel_id=4, replica_groups={{0,1}}, to_apply=%add
  %zero = s32[]{:T(128)} constant(0)
  ROOT %part = f32[4,16]{1,0:T(8,128)} dynamic-slice(%sum, %zero, %zero), dynamic_slice_sizes={4,16}
}

ENTRY %main (x: f32[8,16]) -> f32[4,16] {
  %x.1 = f32[8,16]{1,0:T(8,128)} parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %init = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) tuple(%one, %x.1)
  %loop = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) while(%init), condition=%condition, body=%body
  %last = f32[8,16]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  ROOT %result = f32[4,16]{1,0:T(8,128)} fusion(%last), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_the_tpu_compilers_text_is_read():
    cost = program_cost(Program.parse(TPU), slice_devices=8)
    kinds = {one.kind: one for one in cost.collectives.values()}
    assert kinds.keys() == {"collective-permute", "reduce-scatter"}
    permute = kinds["collective-permute"]
    assert (permute.times, permute.received, permute.across, permute.looped) == (4, 512, True, True)  # 1, 3, 5, 7
    assert kinds["reduce-scatter"].received == 256
    # A turn reads x into the fast memory, moves it, and counts; the last fusion reads 512 and writes 256.
    assert cost.bytes == 4 * (512 + 1024 + 3 * 4) + 512 + 256


SLICES = """
ENTRY %main (x: bf16[8,16]) -> bf16[8,16] {
  %x = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %after = token[] after-all()
  %recv = (bf16[8,16]{1,0:T(8,128)(2,1)}, u32[], token[]) recv(%after), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.1_0",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send = (bf16[8,16]{1,0:T(8,128)(2,1)}, u32[], token[]) send(%x, %after), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.1_0",_xla_megascale_transfer_type="ALL_REDUCE"}
  %sent = token[] send-done(%send), channel_id=2, is_host_transfer=true
  %got = (bf16[8,16]{1,0:T(8,128)(2,1)}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true
  ROOT %sum = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%got), index=0
}
"""  # noqa: E501


@pytest.mark.parametrize(("slices", "received"), [(2, 256), (4, 384)])
def test_what_goes_between_slices_by_way_of_the_hosts_is_counted(slices, received):
    cost = program_cost(Program.parse(SLICES), slice_devices=8, slices=slices)
    (one,) = cost.collectives.values()
    assert (one.kind, one.across, one.received) == ("all-reduce", True, received)
    assert cost.bytes == pytest.approx(512, abs=16)  # read once, and once written


@pytest.mark.parametrize(
    ("said", "kind", "received", "unknown"),
    [("ONE_TO_ONE", "collective-permute", 256, 0), ("ONE_TO_ALL", "one-to-all", 256, 1)],
)
def test_a_transfer_of_a_kind_that_is_not_in_the_table_was_a_traceback(said, kind, received, unknown):
    cost = program_cost(Program.parse(SLICES.replace("ALL_REDUCE", said)), slice_devices=8, slices=4)
    (one,) = cost.collectives.values()
    assert (one.kind, one.across, one.received, cost.unknown) == (kind, True, received, unknown)


def test_products_written_as_convolutions_count_only_terms_that_are_computed():
    def flops(line: str) -> float:
        text = f"ENTRY %main (a: f32[1], b: f32[1]) -> f32[1] {{\n{line}\n}}"
        program = Program.parse(text)
        return product_flops(program.root("main"), program.computations["main"])

    plain = """  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[16,32]{1,0} parameter(1)
  ROOT %c = f32[8,32]{1,0} convolution(%a, %b), dim_labels=bf_io->bf"""
    # Four products of [32, 16] and [16, 8], the batch written as a dilated window.
    batched = """  %a = f32[4,32,16]{2,1,0} parameter(0)
  %b = f32[4,8,16]{2,1,0} parameter(1)
  ROOT %c = f32[4,32,8]{2,1,0} convolution(%a, %b), window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0oi->0bf"""
    assert flops(plain) == 2 * 8 * 16 * 32
    assert flops(batched) == 2 * 4 * 32 * 16 * 8


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, x", [0, 4]),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", [0, 1, 4, 5]),
        ("replica_groups=[4,2]<=[8]", [0, 1]),
        ("channel_id=1", []),
    ],
)
def test_groups_of_devices_are_read_in_every_notation(text, group):
    assert first_group(text) == group
