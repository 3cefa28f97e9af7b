"""Optimizers as optimistix minimisers."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest

from aeoskit.optimizers import (
    adam,
    adamw,
    apply_updates,
    as_minimiser,
    from_optax,
    momentum,
)

MATRIX = jnp.diag(jnp.array([1.0, 4.0, 9.0]))
TARGET = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}


def loss(y, args):
    x = jnp.append(y["a"] - TARGET["a"], y["b"] - TARGET["b"])
    return args * 0.5 * x @ MATRIX @ x


def test_the_minimum_is_found():
    start = jax.tree.map(jnp.zeros_like, TARGET)
    solver = as_minimiser(adam(0.05), rtol=1e-5, atol=1e-5)
    found = optx.minimise(loss, solver, start, 1.0, max_steps=5000)
    assert bool(found.result == optx.RESULTS.successful)
    for x, y in zip(jax.tree.leaves(found.value), jax.tree.leaves(TARGET), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-3)


def test_its_steps_are_the_optimizers():
    start = jax.tree.map(jnp.zeros_like, TARGET)
    optimizer = momentum(0.02)
    found = optx.minimise(
        loss, as_minimiser(optimizer, 1e-9, 1e-9), start, 1.0, max_steps=7, throw=False
    )
    assert bool(found.result == optx.RESULTS.nonlinear_max_steps_reached)
    params, state = start, optimizer.init(start)
    for _ in range(7):
        updates, state = optimizer.update(jax.grad(loss)(params, 1.0), state, params)
        params = apply_updates(params, updates)
    for x, y in zip(jax.tree.leaves(found.value), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)


def test_its_end_is_differentiable():
    """By the implicit function theorem: the minimum of (y - a)² moves with a."""

    def nearest(a):
        solver = as_minimiser(adam(0.05))
        return optx.minimise(lambda y, a: (y - a) ** 2, solver, 0.0, a, max_steps=5000).value

    np.testing.assert_allclose(jax.grad(nearest)(0.7), 1.0, rtol=1e-3)


def test_an_optimizer_is_no_minimiser_by_itself():
    """`init` takes what optax's does, and no more."""
    optimizer = adam(0.05)
    assert not isinstance(optimizer, optx.AbstractMinimiser)
    assert list(inspect.signature(optimizer.init).parameters) == ["params"]


@pytest.mark.parametrize("wrap", [lambda tx: tx, from_optax])
def test_a_line_search_of_optax_has_the_function(wrap):
    """They ask for the value and the function, by name; Adam in the same place does not."""
    start = jax.tree.map(jnp.zeros_like, TARGET)
    for tx, steps in ((optax.lbfgs(), 100), (optax.adam(0.05), 5000)):
        found = optx.minimise(loss, as_minimiser(wrap(tx)), start, 1.0, max_steps=steps)
        for x, y in zip(jax.tree.leaves(found.value), jax.tree.leaves(TARGET), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-3)


def test_what_success_does_not_mean():
    """As the docstring has it: a schedule's end is one; with decay there would be no minimum."""

    def nearest(a, solver):
        solver = as_minimiser(solver)
        return optx.minimise(lambda y, a: (y - a) ** 2, solver, 0.0, a, max_steps=3000)

    ended = nearest(3.0, adam(lambda count: jnp.where(count < 20, 0.1, 1e-9)))
    assert bool(ended.result == optx.RESULTS.successful)
    assert float(ended.value) < 2.5
    with pytest.raises(ValueError, match="has weight decay, with which"):
        jax.jit(lambda decay: nearest(3.0, adamw(0.1, weight_decay=decay)).value)(1.0)
    with pytest.raises(ValueError, match=r"weight decay of 0.5, .* weight_decay=None, and add"):
        as_minimiser(adamw(0.1, weight_decay=0.5))
    none = adamw(0.1, weight_decay=0.0)
    assert bool(nearest(3.0, none).result == optx.RESULTS.successful)


def test_what_is_no_optimizer():
    with pytest.raises(TypeError, match="such as adam"):
        as_minimiser(0.1)
