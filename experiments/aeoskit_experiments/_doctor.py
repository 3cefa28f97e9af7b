"""The installation's versions and devices, and tests of its numbers."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import aeoskit as ak
from aeoskit.linalg import dense_matrix
from aeoskit.record import environment
from aeoskit_experiments.cache import cache_state, follow_cache


def examine() -> dict[str, Any]:
    """Gather versions, devices and precision, and test three numbers against their oracles.

    Returns:
        `environment`, `cache` (`folder`, `programs`, `bytes`, `limit`), `tests` (each with `name`,
        `error`, `bound`, `ok`), `seconds` and `ok`.
    """
    follow_cache()
    begun = time.perf_counter()
    tests = []
    with jax.default_matmul_precision("highest"):
        for name, bound, test in (
            ("eigenvalue of a known spectrum", 1e-4, _known_spectrum),
            ("Adam's step against its formula", 1e-6, _adam_step),
            ("Hessian's eigenvalue against the dense one", 1e-4, _hessian),
        ):
            error = float(test())
            tests.append({"name": name, "error": error, "bound": bound, "ok": error <= bound})
    where = environment()
    return {
        "environment": {**where, "matmul_precision": "highest"},
        "cache": cache_state(),
        "tests": tests,
        "seconds": time.perf_counter() - begun,
        "ok": all(test["ok"] for test in tests),
    }


def _known_spectrum() -> float:
    """A matrix of known eigenvalues, mixed by a reflection; the top one is 10."""
    spectrum = jnp.concatenate([jnp.array([10.0]), jnp.linspace(-1.0, 5.0, 39)])
    normal = jnp.sin(1.0 + jnp.arange(40.0))
    normal = normal / jnp.linalg.norm(normal)
    mirror = jnp.eye(40) - 2 * jnp.outer(normal, normal)
    matrix = mirror @ jnp.diag(spectrum) @ mirror
    operator = lx.MatrixLinearOperator((matrix + matrix.T) / 2, lx.symmetric_tag)
    solution = eqx.filter_jit(ak.eigensolve)(operator, ak.Lanczos(rtol=1e-4))
    return abs(float(solution.values[0]) - 10.0) / 10.0


def _adam_step() -> float:
    """The first step of Adam is `lr·g/(|g| + eps)`, whatever the momentum."""
    optimizer = ak.adam(1e-2, eps=1e-3)
    params = {"w": jnp.array([1.0, -2.0, 3.0])}
    grads = {"w": jnp.array([0.5, -1e-3, 20.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    g = np.asarray(grads["w"], np.float64)
    expected = -1e-2 * g / (np.abs(g) + 1e-3)
    return float(np.max(np.abs(np.asarray(updates["w"], np.float64) / expected - 1)))


def _squares(params: dict[str, jax.Array], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    inputs, targets = batch
    outputs = jnp.tanh(inputs @ params["a"]) @ params["b"]
    return 0.5 * (outputs - targets) ** 2


def _hessian() -> float:
    """The top eigenvalue of a tiny network's Hessian, by Lanczos and densely."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"a": jax.random.normal(keys[0], (4, 6)), "b": jax.random.normal(keys[1], (6,))}
    inputs = jax.random.normal(keys[2], (32, 4))
    objective = ak.Objective(_squares, (inputs, jnp.sin(inputs[:, 0])))
    operator = objective.hessian(params)
    solution = eqx.filter_jit(ak.eigensolve)(operator, ak.Lanczos(rtol=1e-4))
    dense = np.linalg.eigvalsh(np.asarray(dense_matrix(operator), np.float64))[-1]
    return abs(float(solution.values[0]) - dense) / abs(dense)
