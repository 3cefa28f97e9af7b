"""The reader of compiled programs, on the forms that the backends write."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from aeoskit.sharding import Collective, collectives, make_mesh

# Start and done, tuples, layouts with parentheses, and a loop that calls a computation.
TPU = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: bf16[16,128]) -> bf16[64,128] {
  %p = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %gather = bf16[64,128]{1,0:T(8,128)(2,1)} all-gather(%p), dimensions={0}
}

%body (state: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %state = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) parameter(0)
  %x = f32[8,16]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %y = f32[4]{0:T(128)} constant({1, 2, 3, 4})
  %start = (f32[8,16]{1,0:T(8,128)}, f32[4]{0}) all-reduce-start(%x, %y), to_apply=%add
  %done = (f32[8,16]{1,0:T(8,128)}, f32[4]{0}) all-reduce-done(%start)
  %call = bf16[64,128]{1,0} fusion(%z), kind=kCustom, calls=%inner
  ROOT %t = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) tuple(%i, %x)
}

%condition (state: (s32[], f32[8,16])) -> pred[] {
  %state.1 = (s32[], f32[8,16]) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main.3_spmd (x.1: f32[8,16]) -> f32[8,16] {
  %x.1 = f32[8,16]{1,0} parameter(0)
  %w = (s32[], /*index=1*/f32[8,16]{1,0}) while(%tuple), condition=%condition, body=%body
  %s = f32[2,16]{1,0} reduce-scatter(%x.1), dimensions={0}, to_apply=%add
  %ag = ((f32[2,16]{1,0}), f32[8,16]{1,0:S(1)}, u32[]) all-gather-start(%s), dimensions={0}
  %agd = f32[8,16]{1,0} all-gather-done(%ag)
  %cp = (f32[2,16]{1,0}, f32[2,16]{1,0}, u32[], u32[]) collective-permute-start(%s)
  ROOT %cpd = f32[2,16]{1,0} collective-permute-done(%cp)
}
"""


def test_every_form():
    assert collectives(TPU) == [
        Collective("all-gather", 1, 64 * 128 * 2, True),
        Collective("all-reduce", 1, 4 * (8 * 16 + 4), True),
        Collective("all-gather", 1, 4 * 8 * 16, False),
        Collective("reduce-scatter", 1, 4 * 8 * 16, False),
        Collective("collective-permute", 1, 4 * 2 * 16, False),
    ]


@pytest.mark.parametrize(
    ("array", "size"),
    [("pred[3]", 3), ("s4[3]", 2), ("f8e4m3fn[5]", 5), ("c64[2,2]", 32), ("f64[]", 8)],
)
def test_widths(array: str, size: int):
    text = f"ENTRY main {{\n  x = {array} parameter(0)\n  r = {array} all-reduce(x)\n}}\n"
    assert collectives(text) == [Collective("all-reduce", 1, size, False)]


def test_a_program_of_this_backend():
    mesh = make_mesh("data=4")

    def steps(x):
        total = jax.shard_map(
            lambda x: jax.lax.psum(x, "data"),
            mesh=mesh,
            in_specs=P("data"),
            out_specs=P(),
        )
        return jax.lax.fori_loop(0, 3, lambda i, y: y + jnp.tile(total(y), 4), x)

    x = jax.device_put(jnp.ones(8), jax.NamedSharding(mesh, P("data")))
    text = jax.jit(steps, out_shardings=x.sharding).lower(x).compile().as_text()
    found = collectives(text)
    assert [c.in_loop for c in found if c.kind == "all-reduce"] == [True]
    assert [c.bytes for c in found if c.kind == "all-reduce"] == [4 * 2]
    single = jax.jit(jnp.sum).lower(jnp.ones(8)).compile().as_text()
    assert collectives(single) == []
