"""The table of named optimizers, and the places that have to name the same ones."""

import inspect

import jax.numpy as jnp
import pytest

from aeoskit import optimizers
from aeoskit.optimizers import NAMED, AbstractOptimizer
from aeoskit_experiments.pipelines import STAGES


def test_the_stage_has_every_name():
    """The registry of stages names them without importing jax."""
    ours = {f"aeoskit.optimizers:{name}" for name in NAMED}
    named = STAGES["optimizer"].variants
    assert {name for name, place in named.items() if place in ours} == set(NAMED)
    assert {place for place in named.values() if place.startswith("aeoskit.opt")} == ours


@pytest.mark.parametrize("name", NAMED)
def test_a_name_is_public_and_documented(name: str):
    assert getattr(optimizers, name) is NAMED[name]
    assert "Source: " in str(inspect.getdoc(NAMED[name]))


@pytest.mark.parametrize("name", NAMED)
def test_properties(name: str):
    """Signs have no metric; the metric of plain momentum is the identity."""
    optimizer = NAMED[name](0.1)
    signs = name in ("lion", "sign_descent")
    plain = name in ("gradient_descent", "momentum", "nesterov", "schedule_free_sgd")
    assert isinstance(optimizer, AbstractOptimizer)
    assert optimizer.has_metric == optimizer.has_threshold == (not signs)
    assert optimizer.freezable == optimizer.tunable == (not signs)
    assert optimizer.is_euclidean == (plain or signs)
    assert optimizer.stackable
    assert optimizer.takes_batches
    assert optimizer.is_update_map == (not signs)
    state = optimizer.init(jnp.zeros((2, 2)))
    assert bool(jnp.isnan(optimizer.threshold(state))) == signs
