"""Two steps of every optimizer, on parameters that lie on several devices."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import aeoskit as ak
from aeoskit.sharding import Placement, make_mesh

_spec = importlib.util.spec_from_file_location(
    "sharding_everything", Path(__file__).parent / "everything.py"
)
cases = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)

LR = 1e-2
ZOO = {
    "adabelief": ak.adabelief(LR),
    "adafactor": ak.adafactor(LR),
    "adagrad": ak.adagrad(LR),
    "adam": ak.adam(LR),
    "adamw": ak.adamw(LR, weight_decay=0.1),
    "amsgrad": ak.amsgrad(LR),
    "gi_adam": ak.gi_adam(LR),
    "gradient_descent": ak.gradient_descent(LR),
    "lion": ak.lion(LR),
    "momentum": ak.momentum(LR),
    "muon": ak.muon(LR),
    "nadam": ak.nadam(LR),
    "nesterov": ak.nesterov(LR),
    "padam": ak.padam(LR),
    "rmsprop": ak.rmsprop(LR),
    "scalar_rmsprop": ak.scalar_rmsprop(LR),
    "schedule_free_adamw": ak.schedule_free_adamw(LR),
    "schedule_free_sgd": ak.schedule_free_sgd(LR),
    "shampoo": ak.shampoo(LR),
    "sign_descent": ak.sign_descent(LR),
    "soap": ak.soap(LR),
}


def first(optimizers, params):
    return {name: optimizer.init(params) for name, optimizer in optimizers.items()}


@eqx.filter_jit
def two_steps(optimizers, states, params, grads):
    """All of them in one program."""
    found = {}
    for name, optimizer in optimizers.items():
        state, point = states[name], params
        for g in grads:
            updates, state = optimizer.update(g, state, point)
            point = ak.apply_updates(point, updates)
        found[name] = point, optimizer.threshold(state)
    return found


@pytest.mark.parametrize("params_are", ["replicated", "sharded"])
def test_the_zoo(x64, params_are):
    placement = Placement(make_mesh("data=2,model=2"), params=params_are)
    params = cases.make_params()
    grads = [jax.tree.map(jnp.cos, params), jax.tree.map(jnp.sin, params)]
    states = first(ZOO, params)
    placed = placement.put_state(states, params)
    moment = placed["adam"].preconditioner["in"]
    assert moment.sharding.spec == placement.params_spec(moment.shape)
    found = two_steps(
        ZOO, placed, placement.put_params(params), [placement.put_params(g) for g in grads]
    )
    cases.same(two_steps(ZOO, states, params, grads), found)
