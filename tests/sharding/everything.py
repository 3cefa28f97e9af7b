"""All that an objective computes, as one program: sharded or not, it has to be the same."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from aeoskit.objective import Objective, SquaredError

FEATURES, HIDDEN, CLASSES = 4, 8, 2


class Scaled(eqx.Module):
    """A loss with an array of its own: it has to reach every device."""

    scale: jax.Array

    def __call__(self, outputs, targets):
        return self.scale * jnp.sum((outputs - targets) ** 2, -1)


class Weighted(eqx.Module):
    scale: jax.Array

    def __call__(self, outputs, targets):
        losses = self.scale * jnp.sum((outputs - targets) ** 2, -1)
        weights = (targets[:, 0] > -0.3).astype(losses.dtype)
        return jnp.sum(weights * losses), jnp.sum(weights)


class Mean(eqx.Module):
    """Batch statistics: only the whole batch at once gives the right mean."""

    scale: jax.Array

    def __call__(self, outputs, targets):
        return jnp.mean(self.scale * (outputs - outputs.mean(0, keepdims=True) - targets) ** 2)


class Case(NamedTuple):
    objective: Objective
    params: Any
    vector: Any
    indices: Any


def model(params, x):
    return jnp.tanh(x @ params["in"] + params["bias"][None]) @ params["out"]


def make_params() -> Any:
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "in": jax.random.normal(keys[0], (FEATURES, HIDDEN)),
        "bias": jax.random.normal(keys[1], (HIDDEN,)),
        "out": jax.random.normal(keys[2], (HIDDEN, CLASSES)),
    }


def make_data(n: int) -> Any:
    x = jax.random.normal(jax.random.key(4), (n, FEATURES))
    return x, jnp.sin(3 * x[:, :CLASSES])


def make_case(kind: str, n: int, microbatch: int | None = None, batch: int = 5) -> Case:
    scale = jnp.asarray(0.5)
    losses = {"per_example": Scaled, "weighted": Weighted, "mean": Mean}
    output_loss = SquaredError() if kind == "known" else losses[kind](scale)
    objective = Objective.from_model(
        model, output_loss, make_data(n), microbatch=microbatch, reuse="linearize"
    )
    params = make_params()
    vector = jax.tree.map(jnp.cos, params)
    return Case(objective, params, vector, (3 * jnp.arange(batch)) % n)


@eqx.filter_jit
def everything(objective: Objective, params: Any, vector: Any, indices: Any) -> dict[str, Any]:
    hessian, gauss_newton = objective.hessian(params), objective.gauss_newton(params)
    value, gradient = objective.value_and_gradient(params)
    return {
        "value": value,
        "gradient": gradient,
        "hessian": hessian.mv(vector),
        "gauss_newton": gauss_newton.mv(vector),
        "linearized": lx.linearise(hessian).mv(vector),
        "batch": objective.on_batch(indices).gradient(params),
    }


def same(a: Any, b: Any, rtol: float = 1e-10) -> None:
    """Equal to `rtol` of the largest entry of a leaf."""

    def compare(path: Any, x: Any, y: Any) -> None:
        x, y = np.asarray(x), np.asarray(y)
        assert x.shape == y.shape
        scale = np.max(np.abs(x), initial=1e-300)
        np.testing.assert_allclose(y, x, rtol=0, atol=rtol * scale, err_msg=str(path))

    jax.tree_util.tree_map_with_path(compare, a, b)
