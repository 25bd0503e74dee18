"""Collectives and memory traffic of compiled programs equal the arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from core.parallel.mesh import make_mesh
from core.perf import hlo

LAYERS, D = 5, 64
MESH = make_mesh(data=2, fsdp=4)
ORDER = type(
    "Order", (), {"axis_names": ("a", "b"), "devices": np.arange(8).reshape(2, 4)}
)


def program():
    """HLO of a scan that gathers the weights of each layer and scatters its gradients."""

    def loss(weights, x):
        def layer(x, w):
            w = jax.lax.all_gather(w, "fsdp", axis=0, tiled=True)
            return jnp.tanh(x @ w), None

        x, _ = jax.lax.scan(jax.checkpoint(layer, prevent_cse=False), x, weights)
        return (x**2).sum()

    def step(weights, x):
        value, grads = jax.value_and_grad(loss)(weights, x)
        return jax.lax.psum(grads, "data"), jax.lax.pmean(value, ("data", "fsdp"))

    run = jax.shard_map(
        step,
        mesh=MESH,
        in_specs=(P(None, "fsdp"), P(("data", "fsdp"))),
        out_specs=(P(None, "fsdp"), P()),
        check_vma=False,
    )
    shapes = (LAYERS, D, D), (16, D)
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(run).lower(*given).compile().as_text()


def test_collectives_in_loops_count_once_per_iteration():
    found = hlo.collectives(program(), MESH)
    table = {}
    for one in found:
        key = one.kind, one.axes
        times, sent = table.get(key, (0, 0.0))
        table[key] = times + one.times, sent + one.sent
    layer = 4 * D * D
    # Once in the forward pass, once in recomputation.
    assert table["all-gather", ("fsdp",)] == (2 * LAYERS, 2 * LAYERS * layer * 3 / 4)
    assert table["reduce-scatter", ("fsdp",)] == (LAYERS, LAYERS * layer * 3 / 4)
    times, sent = table["all-reduce", ("data",)]
    assert times == 1 and sent == 2 * 1 / 2 * LAYERS * layer / 4
    assert table["all-reduce", ("data", "fsdp")] == (1, 2 * 7 / 8 * 4)


@pytest.mark.parametrize(
    ("text", "axes", "ways"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", ("b",), 4),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("a",), 2),
        ("replica_groups=[2,4]<=[8]", ("b",), 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("a",), 2),
        ("replica_groups=mesh['x'=2,'y'=4] {'y'}", ("b",), 4),
        ("replica_groups=mesh['x'=8] {'x'}", ("a", "b"), 8),
        ("source_target_pairs={{0,1},{1,2},{2,3},{3,0}}", ("b",), 2),
        ("replica_groups={}", ("a", "b"), 8),
    ],
)
def test_replica_groups_in_all_notations(text, axes, ways):
    assert hlo.group_of(text, ORDER) == (axes, ways)


TEXT = """
HloModule step

%body (p: (s32[], f32[8,256])) -> (s32[], f32[8,256]) {
  %p = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %w = f32[8,256]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %x = bf16[128]{0:T(256)} custom-call(%w, %i), custom_call_target="take"
  %y = bf16[1024]{0:T(256)} all-gather(%x), channel_id=3, replica_groups=[1,8]<=[8]
  ROOT %t = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)}) tuple(%i, %w)
}

%until (p: (s32[], /*index=1*/f32[8,256])) -> pred[] {
  %p.1 = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} constant(24)
  %j = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %n), direction=LT
}

ENTRY %main (a: f32[8,256]) -> f32[8,256] {
  %a = f32[8,256]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %first = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)}) while(%first), condition=%until, body=%body
  %kept = f32[8,256]{1,0:T(8,128)S(1)} copy(%a)
  ROOT %out = f32[8,256]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


FUSED = """
HloModule step

%write (old: f32[24,64], part: f32[1,64], i: s32[]) -> f32[24,64] {
  %old = f32[24,64]{1,0} parameter(0)
  %part = f32[1,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %new = f32[24,64]{1,0} dynamic-update-slice(%old, %part, %i, %zero)
}

%read (all: f32[24,64], j: s32[]) -> f32[1,64] {
  %all = f32[24,64]{1,0} parameter(0)
  %j = s32[] parameter(1)
  %none = s32[] constant(0)
  %view = f32[24,64]{1,0} bitcast(%all)
  ROOT %some = f32[1,64]{1,0} dynamic-slice(%view, %j, %none), dynamic_slice_sizes={1,64}
}

ENTRY %main (a: f32[24,64], b: s32[]) -> f32[24,64] {
  %a = f32[24,64]{1,0} parameter(0)
  %b = s32[] parameter(1)
  %x = f32[1,64]{1,0} fusion(%a, %b), kind=kLoop, calls=%read, metadata={op_name="x"}
  ROOT %y = f32[24,64]{1,0} fusion(%a, %x, %b), kind=kLoop, calls=%write, metadata={}
}
"""


def test_slices_and_updates_in_place_count_in_part():
    row, number = 64 * 4, 4
    assert hlo.memory_traffic(FUSED) == (row + row + number) + (row + row + number)


NESTED = """
HloModule step

%inner (all: f32[24,64], j: s32[]) -> f32[1,64] {
  %all = f32[24,64]{1,0} parameter(0)
  %j = s32[] parameter(1)
  %none = s32[] constant(0)
  ROOT %some = f32[1,64]{1,0} dynamic-slice(%all, %j, %none), dynamic_slice_sizes={1,64}
}

%outer (more: f32[24,64], k: s32[]) -> f32[1,64] {
  %more = f32[24,64]{1,0} parameter(0)
  %k = s32[] parameter(1)
  ROOT %in = f32[1,64]{1,0} fusion(%more, %k), kind=kLoop, calls=%inner
}

ENTRY %main (a: f32[24,64], b: s32[]) -> f32[1,64] {
  %a = f32[24,64]{1,0} parameter(0)
  %b = s32[] parameter(1)
  ROOT %x = f32[1,64]{1,0} fusion(%a, %b), kind=kOutput, calls=%outer
}
"""


def test_slices_in_nested_fusions_count_in_part():
    row, number = 64 * 4, 4
    assert hlo.memory_traffic(NESTED) == row + row + number


SCATTER = """
HloModule step

%all-reduce-scatter.1 (input: bf16[88,64]) -> bf16[12,64] {
  %input = bf16[88,64]{1,0} parameter(0)
  %zero = bf16[] constant(0)
  %pad = bf16[96,64]{1,0} pad(%input, %zero), padding=0_8x0_0
  %sum = bf16[96,64]{1,0} all-reduce(%pad), channel_id=1, replica_groups=[1,8]<=[8]
  %place = u32[] constant(0)
  ROOT %mine = bf16[12,64]{1,0} dynamic-slice(%sum, %place, %place)
}

ENTRY %main (a: bf16[88,64]) -> bf16[12,64] {
  %a = bf16[88,64]{1,0} parameter(0)
  ROOT %x = bf16[12,64]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1, EMITTER
}
"""


@pytest.mark.parametrize(
    ("emitter", "kind", "share"),
    [
        (
            'backend_config={"emitter":"AllReduceScatterFusion"}',
            "reduce-scatter",
            7 / 8,
        ),
        ('backend_config={"emitter":"Other"}', "all-reduce", 2 * 7 / 8),
    ],
)
def test_an_all_reduce_of_which_a_part_is_kept_is_a_reduce_scatter(
    emitter, kind, share
):
    (one,) = hlo.collectives(SCATTER.replace("EMITTER", emitter), ORDER)
    assert one.kind == kind and one.sent == 96 * 64 * 2 * share


def test_a_tpu_program_is_parsed():
    (one,) = hlo.collectives(TEXT, ORDER)
    assert one == hlo.Collective("all-gather", ("a", "b"), 8, 2048.0, 24)
    assert one.sent == 24 * 2048 * 7 / 8
    # Per iteration the custom call reads w and i and writes x, the gather reads and writes.
    # The copy to on-chip memory only reads.
    turn = (8192 + 4 + 256) + (256 + 2048)
    assert hlo.memory_traffic(TEXT) == 24 * turn + 8192
