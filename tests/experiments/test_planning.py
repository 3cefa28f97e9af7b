"""Plans: what a topology's text means, what compiles, what the verdict tries, where arrays are."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import pytest

from aeoskit_experiments import UserError
from aeoskit_experiments.pipelines import Pipeline, data, loss, model, optimizer, pipe, track, train
from aeoskit_experiments.planning import (
    CHIPS,
    Chip,
    Plan,
    PlanSettings,
    Row,
    layout,
    parse_topology,
    plan,
)
from aeoskit_experiments.planning._compile import (
    compiler_seconds,
    needed_bytes,
    roofline_seconds,
)
from aeoskit_experiments.planning._cycles import loop_factor
from aeoskit_experiments.planning._flops import matmul_flops
from aeoskit_experiments.planning._request import with_settings
from aeoskit_experiments.planning._verdict import SearchSpace, find_verdict

WIDTH, EXAMPLES = 64, 18


def small(**options: Any) -> Pipeline:
    return pipe(
        data("digits", examples=EXAMPLES),
        model("mlp", width=WIDTH, depth=1),
        loss("mse"),
        optimizer("adam", lr=1e-3),
        track("sharpness", every=2, basis=20, solver="lanczos"),
        train(4, chunk=4, **options),
        name="small",
    )


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(small(microbatch=2), "cpu:4")


def row(planned: Plan, program: str) -> Row:
    (found,) = [row for row in planned.rows if row.program == program]
    return found


@pytest.mark.parametrize(
    ("text", "platform", "devices"),
    [
        ("v5e:2x4", "tpu", 8),
        ("v5e:16x16", "tpu", 256),
        ("v6e:8x8", "tpu", 64),
        ("v5p:4x4x4", "tpu", 64),
        ("cpu:4", "cpu", 4),
        ("local", "local", 0),
    ],
)
def test_topologies(text: str, platform: str, devices: int) -> None:
    topology = parse_topology(text)
    assert (topology.platform, topology.devices) == (platform, devices)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5e", "write v5e:16x16"),
        ("v5e:", "write v5e:16x16"),
        ("v5e:0x4", "write v5e:16x16"),
        ("v5e:4x4x4", "a slice of v5e has 2 sides"),
        ("v5p:4x4", "a slice of v5p has 3 sides, as in v5p:4x4x4"),
        ("cpu:2x2", "have no shape"),
        ("v6r:8x8", "did you mean 'v6e'?"),
    ],
)
def test_topologies_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        parse_topology(text)


def test_a_plan_has_all_programs(planned: Plan) -> None:
    assert [row.program for row in planned.rows] == ["steps", "product", "solve", "steps + probe"]
    assert planned.verdict.fits
    assert planned.mesh == {"data": 4}
    assert planned.parameters == 64 * WIDTH + WIDTH + 10 * WIDTH + 10
    assert all(row.fits and not row.refused for row in planned.rows)
    # It is plain data, and comes back whole: from a child process, say.
    assert msgspec.json.decode(msgspec.json.encode(planned), type=Plan) == planned


def test_a_product_is_reduced_once(planned: Plan) -> None:
    vector = 4 * planned.parameters
    transfers = row(planned, "product").transfers
    reduced = [t for t in transfers if t.kind in ("all-reduce", "reduce-scatter")]
    gathered = [t for t in transfers if t.kind == "all-gather"]
    # With the weights of the examples, and what the last, uneven example of each shard adds.
    assert vector <= sum(t.count * t.bytes for t in reduced) <= vector + 64
    assert sum(t.count * t.bytes for t in gathered) <= vector
    assert {t.per for t in transfers} == {"call"}


def test_flops_are_those_of_the_layers(planned: Plan) -> None:
    # Of a product: forward twice (value and tangent), backward likewise; four rows a chip, and one
    # of the two that are left over.
    pairs = 64 * WIDTH + 10 * WIDTH
    single_pass = 2 * pairs * (EXAMPLES // 4 + 1)
    assert 4 * single_pass <= row(planned, "product").flops <= 6 * single_pass


def test_a_basis_is_spread(planned: Plan) -> None:
    """Of a solve, a chip holds a quarter of each vector, and a few whole ones for a product."""
    assert row(planned, "solve").temporary_bytes < 20 * 4 * planned.parameters


def test_loops_of_known_length_count_in_flops() -> None:
    def scanned(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, _: (y @ x, None), x, None, length=5)[0]

    program = jax.make_jaxpr(scanned)(jnp.ones((3, 3)))
    assert matmul_flops(program, 1) == 5 * 2 * 27


HLO = """
HloModule jit_f, is_scheduled=true

%cond.1 (p.1: (s32[], f32[8])) -> pred[] {
  %constant.2 = s32[]{:T(128)} constant(6)
  %p.1 = (s32[], f32[8]) parameter(0)
  %g.1 = s32[] get-tuple-element(%p.1), index=0
  ROOT %lt.1 = pred[] compare(%g.1, %constant.2), direction=LT
}

%body.1 (p.2: (s32[], f32[8])) -> (s32[], f32[8]) {
  ROOT %f.1 = f32[8] fusion(%p.2), calls=%c, backend_config={"estimated_cycles":"10"}
}

ENTRY %main.1 (a: f32[8]) -> f32[8] {
  %f.2 = f32[8] fusion(%a), calls=%c, backend_config={"estimated_cycles":"40"}
  %w.1 = (s32[], f32[8]) while(%t.1), condition=%cond.1, body=%body.1
}
"""


def test_loops_of_known_length_count_in_the_compilers_time() -> None:
    assert loop_factor(HLO) == pytest.approx((40 + 6 * 10) / (40 + 10))
    unknown = HLO.replace("s32[]{:T(128)} constant(6)", "s32[] get-tuple-element(%p.1), index=0")
    assert loop_factor(unknown) == 1
    assert loop_factor(HLO.replace("estimated_cycles", "other")) is None


def test_estimates() -> None:
    chip = CHIPS["v5e"]
    assert compiler_seconds(0.5, 2.0) == 1.0
    # An operation that the compiler cannot estimate counts as -1.
    assert compiler_seconds(-0.5, 2.0) is None
    assert compiler_seconds(0.5, None) is None
    assert roofline_seconds(197e12, None, chip, "bfloat16") == 1.0
    assert roofline_seconds(197e12, None, chip, "float32") == 6.0
    assert roofline_seconds(0.0, 819e9, chip, "float32") == 1.0
    assert roofline_seconds(1.0, 1.0, Chip("unknown", 1), "float32") is None


def test_what_a_refusal_says_is_needed() -> None:
    message = "Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm."
    assert needed_bytes(message) == 17.5 * 2**30
    assert needed_bytes("something else") == 0


class FakeCompiler:
    """Programs of invented sizes: arguments fall with sharding, temporaries with a microbatch."""

    def __init__(self, memory: int, arguments: int, basis: int, floor: int = 0):
        self.memory, self.arguments, self.basis, self.floor = memory, arguments, basis, floor
        self.splits = False
        self.asked: list[tuple[PlanSettings, Sequence[str] | None]] = []

    def __call__(self, settings: PlanSettings, names: Sequence[str] | None) -> list[Row]:
        self.asked.append((settings, names))
        arguments = self.arguments // (4 if settings.params == "sharded" else 1)
        activations = 10 * (settings.microbatch or 64) + self.floor
        activations //= 2 if settings.remat else 1
        activations //= 4 if self.splits and "model" in settings.mesh else 1
        sizes = {
            "steps": activations,
            "solve": activations + self.basis * (settings.basis or 20),
        }
        return [
            Row(
                program=name,
                per="call",
                argument_bytes=arguments,
                temporary_bytes=size,
                total_bytes=arguments + size,
                fits=arguments + size <= self.memory,
            )
            for name, size in sizes.items()
            if names is None or name in names
        ]


def test_a_smaller_basis_comes_last_and_only_for_solves() -> None:
    fake = FakeCompiler(memory=250, arguments=100, basis=10)
    _, settings, verdict = find_verdict(fake, PlanSettings(reuse="recompute"), space(), fake.memory)
    assert verdict.fits
    assert settings.basis is None
    tight = FakeCompiler(memory=180, arguments=100, basis=10)
    _, settings, verdict = find_verdict(tight, PlanSettings(), space(), tight.memory)
    assert (verdict.fits, settings.basis) == (True, 10)
    hopeless = FakeCompiler(memory=9, arguments=0, basis=10, floor=20)
    _, _, verdict = find_verdict(hopeless, PlanSettings(), space(), hopeless.memory)
    assert not [attempt for attempt in verdict.tried if "basis" in attempt.change]


def space(**given: Any) -> SearchSpace:
    known: dict[str, Any] = dict(
        rows_per_shard=64, microbatch=64, basis=20, least_basis=10, remat=True, meshes=()
    )
    return SearchSpace(**{**known, **given})


def test_what_fits_is_compiled_once() -> None:
    fake = FakeCompiler(memory=10_000, arguments=100, basis=1)
    rows, settings, verdict = find_verdict(fake, PlanSettings(), space(), fake.memory)
    assert verdict.fits
    assert not verdict.change
    assert len(fake.asked) == 1
    assert settings == PlanSettings()
    assert [row.program for row in rows] == ["steps", "solve"]


def test_a_smaller_microbatch_comes_first_and_only_what_failed_is_compiled() -> None:
    fake = FakeCompiler(memory=700, arguments=100, basis=1)
    rows, settings, verdict = find_verdict(fake, PlanSettings(), space(), fake.memory)
    assert verdict.fits
    assert verdict.change == "--microbatch 16"
    assert settings.microbatch == 16
    # At the end all of them, since the change is theirs as well.
    assert fake.asked[-1][1] is None
    assert "does not fit as requested" in verdict.sentence
    assert [row.program for row in rows] == ["steps", "solve"]


def test_arguments_that_fill_the_chip_are_sharded_first() -> None:
    fake = FakeCompiler(memory=1500, arguments=1000, basis=1)
    _, settings, verdict = find_verdict(fake, PlanSettings(), space(), fake.memory)
    assert verdict.change == "--params sharded"
    assert settings.microbatch is None


def test_knobs_add_up_and_those_that_do_not_help_are_turned_back() -> None:
    fake = FakeCompiler(memory=250, arguments=100, basis=10)
    _, settings, verdict = find_verdict(fake, PlanSettings(), space(), fake.memory)
    assert verdict.fits
    assert (settings.microbatch, settings.params, settings.basis) == (1, "sharded", None)
    changes = [attempt.change for attempt in verdict.tried]
    assert changes[:4] == ["", "--microbatch 16", "--microbatch 4", "--microbatch 1"]
    assert verdict.tried[-1].bytes <= fake.memory


def test_a_mesh_that_splits_the_model_comes_last() -> None:
    fake = FakeCompiler(memory=60, arguments=4, basis=1, floor=100)
    fake.splits = True
    split = space(microbatch=1, remat=False, meshes=("data=2,model=4",))
    _, settings, verdict = find_verdict(fake, PlanSettings(microbatch=1), split, fake.memory)
    assert (verdict.fits, settings.mesh) == (True, "data=2,model=4")
    assert verdict.change == "--mesh data=2,model=4 --params sharded"


def test_what_the_compiler_refuses_for_another_reason_is_reported() -> None:
    broken = Row(
        program="steps", per="step", argument_bytes=1, total_bytes=-1, fits=False, refused="a bug"
    )
    _, _, verdict = find_verdict(lambda *asked: [broken], PlanSettings(), space(), 100)
    assert (verdict.fits, verdict.sentence) == (False, "steps cannot be compiled: a bug")
    assert len(verdict.tried) == 1


def test_the_least_memory_is_reported_when_nothing_fits() -> None:
    fake = FakeCompiler(memory=50, arguments=1000, basis=10)
    rows, settings, verdict = find_verdict(fake, PlanSettings(), space(), fake.memory)
    assert not verdict.fits
    assert settings == PlanSettings()
    assert rows[0].argument_bytes == 1000
    assert "take more chips" in verdict.sentence
    assert "the least was" in verdict.sentence


@pytest.mark.parametrize("params", ["replicated", "sharded"])
def test_layouts(params: Any) -> None:
    found = layout(small(), "data=2,model=2", params=params)
    shares = {share.what: share for share in found.shares}
    assert (found.examples, found.rows_per_shard, found.tail) == (EXAMPLES, EXAMPLES // 2, 0)
    whole = 4 * found.parameters
    assert shares["parameters"].bytes == whole
    assert shares["basis of 20 vectors"].bytes == 20 * whole
    assert shares["basis of 20 vectors"].bytes_device < 0.3 * 20 * whole
    if params == "replicated":
        assert shares["parameters"].bytes_device == whole
    else:
        assert shares["parameters"].bytes_device < 0.3 * whole
    assert found.bytes_device == sum(share.bytes_device for share in found.shares)
    assert "computed from shapes" not in found.sentence
    assert math.prod(found.mesh.values()) == found.devices == 4


def test_a_short_run_without_a_probe_gets_one() -> None:
    pipeline = small()
    bare = msgspec.structs.replace(
        pipeline, stages=tuple(stage for stage in pipeline.stages if stage.stage != "track")
    )
    (probe,) = with_settings(bare, PlanSettings(), "float32").experiment().probes
    assert (probe.variant, probe.every) == ("preconditioned_sharpness", 1)


def test_what_a_plan_refuses() -> None:
    with pytest.raises(UserError, match="microbatch is 0"):
        plan(small(), "cpu:4", microbatch=0)
    with pytest.raises(UserError, match="needs 8 devices, but there are 4"):
        plan(small(), "cpu:4", mesh="data=8")
    with pytest.raises(UserError, match="a layout is computed for at most"):
        layout(small(), "data=100000")
