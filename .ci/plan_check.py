"""What compiled plans must show: all compile, vectors move once, memory falls with the chips."""

import concurrent.futures
import sys
import time
from typing import Any

from aeoskit_experiments.pipelines import Pipeline, data, loss, model, optimizer, pipe, track, train
from aeoskit_experiments.planning import Plan, Row, plan, transformer_pipeline
from aeoskit_experiments.recipes import make_recipe

TOPOLOGIES = ("v5e:2x4", "v5e:16x16", "v6e:8x8", "v5p:4x4x4")
REDUCTIONS = ("all-reduce", "reduce-scatter", "all-to-all")
PROGRAMS = ["steps", "product", "solve", "steps + probe"]

# What goes along with a reduction: the value, the weights, a norm.
SMALL = 8192


def planned(name: str, pipeline: Pipeline, topology: str, **options: Any) -> Plan:
    """A plan that has every program, and took so many seconds."""
    begun = time.perf_counter()
    found = plan(pipeline, topology, **options)
    assert [row.program for row in found.rows] == PROGRAMS, found
    seconds = time.perf_counter() - begun
    print(f"-- {name}, {topology}: {found.verdict.sentence} ({seconds:.0f} s)", flush=True)
    return found


def row(found: Plan, program: str) -> Row:
    """One of its programs."""
    return next(row for row in found.rows if row.program == program)


def moved(found: Row, *kinds: str) -> int:
    """The bytes of all collectives of these kinds on a chip."""
    return sum(item.count * item.bytes for item in found.transfers if item.kind in kinds)


def check_product(found: Plan) -> None:
    """One reduction of a vector, one gather of one (with sharded parameters, of them as well)."""
    product, vector = row(found, "product"), 4 * found.parameters
    gathers = 1 if found.knobs.params == "replicated" else 2
    reduced, gathered = moved(product, *REDUCTIONS), moved(product, "all-gather")
    assert reduced >= vector * 0.98, product.transfers
    assert gathered <= gathers * vector * 1.02, product.transfers
    # The compiler may write a gather of small parts as a reduction of padded ones.
    assert reduced + gathered <= (1 + gathers) * vector * 1.02 + SMALL, product.transfers
    # Nowhere a basis: a warm start has ten vectors and more, a solve twenty. The compiler combines
    # what it can of a few single ones, those of a step's lanes and of its preconditioner.
    for program in found.rows:
        for item in program.transfers:
            # Of a sweep, a vector a lane; of several leaves together, at most all of them.
            assert item.bytes <= 6 * found.lanes * vector, (program.program, item)


def wide() -> Pipeline:
    """A network whose vectors are large beside all else, so that memory is theirs."""
    return pipe(
        data("digits", examples=256),
        model("mlp", width=2048, depth=3),
        loss("mse"),
        optimizer("adam", lr=1e-3),
        track("preconditioned_sharpness", k=3),
        train(100, microbatch=1),
        name="wide",
    )


def check_memory(few: Plan, many: Plan) -> None:
    """From 8 to 256 chips, the basis and sharded parameters take a 32nd."""
    for program in ("steps", "solve", "steps + probe"):
        ratio = row(few, program).argument_bytes / row(many, program).argument_bytes
        assert 20 <= ratio <= 33, (program, ratio)
    # A solve's temporaries are the basis, in parts, and a few whole vectors that a product gathers.
    basis, vector = 20 * 4 * few.parameters, 4 * few.parameters
    fallen = row(few, "solve").temporary_bytes - row(many, "solve").temporary_bytes
    assert 0.8 * basis * (1 / 8 - 1 / 256) <= fallen, (fallen, basis)
    assert row(many, "solve").temporary_bytes <= 8 * vector, row(many, "solve")


def main(everything: bool) -> None:
    """Its plans, two compilers at a time: each is a process of its own.

    Args:
        everything: Every kind of TPU and the largest networks too.
    """
    edge = make_recipe("adam-edge")
    quick: dict[str, Any] = {"precision": "bfloat16"}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        plans = []
        if everything:  # The longest first.
            small, large = map(transformer_pipeline, ("gpt2-small", "1b"))
            plans.append(pool.submit(planned, "1b", large, "v5p:4x4x4", params="sharded", **quick))
            plans.append(pool.submit(planned, "gpt2-small", small, "v5e:16x16", **quick))
        spread = [
            pool.submit(planned, "wide, sharded", wide(), where, params="sharded", **quick)
            for where in ("v5e:2x4", "v5e:16x16")
        ]
        for where in TOPOLOGIES if everything else TOPOLOGIES[:1]:
            plans.append(pool.submit(planned, "adam-edge", edge, where))
    for found in (*plans, *spread):
        check_product(found.result())
    few, many = (found.result() for found in spread)
    check_memory(few, many)
    assert not everything or plans[0].result().verdict.fits, plans[0].result().verdict


if __name__ == "__main__":
    main(everything=sys.argv[1:] == ["all"])
