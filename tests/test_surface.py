"""The names of `aeoskit` itself: what a user's own training code needs, and no more."""

import importlib

import pytest

import aeoskit

ROOMS = "linalg monitor objective optimizers probes sharding stability trajectory"
NAMES = """
    Objective Monitor sharpness preconditioned_sharpness eigensolve Tracking Lanczos Dense
    Optimizer adam adamw nadam rmsprop gradient_descent momentum nesterov shampoo soap muon lion
    apply_updates as_optax from_optax preconditioner_of threshold_of with_threshold freeze
    Cosine LinearWarmup EMA RMS
    AbstractProbe ProbeContext Sharpness PreconditionedSharpness FlipMultiplier LossAndGradient
    StabilityThreshold Evaluation RealizedEdge realized_edge
    flip_multiplier equivalent_ratio
    Trajectory stream branch FreezePreconditioner SwitchOptimizer stack_lanes
"""


def test_the_public_names_are_these():
    assert {name for name in dir(aeoskit) if name[0] != "_"} >= {*NAMES.split(), *ROOMS.split()}
    public = vars(importlib.import_module("aeoskit._public"))
    found = {name for name in public if name[0] != "_"} - {"jaxtyping"}  # the tests' type checks
    assert found == {*NAMES.split(), *ROOMS.split()}


@pytest.mark.parametrize(
    ("name", "place"),
    [("adabelief", "optimizers"), ("leading_multipliers", "stability"), ("Chunk", "trajectory")],
)
def test_a_name_that_has_moved_says_where_it_is(name: str, place: str):
    with pytest.raises(AttributeError, match=rf"aeoskit\.{place}\.{name} now$"):
        getattr(aeoskit, name)
    with pytest.raises(ImportError, match=rf"aeoskit\.{place}\.{name} now$"):
        exec(f"from aeoskit import {name}")


def test_a_name_that_never_was_is_an_ordinary_error():
    with pytest.raises(AttributeError, match="has no attribute 'adma'"):
        getattr(aeoskit, "adma")  # noqa: B009
