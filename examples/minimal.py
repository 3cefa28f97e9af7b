"""Adam at the adaptive edge of stability: plain JAX and optax, measured by aeoskit, drawn.

It needs `pip install aeoskit optax matplotlib`; `python minimal.py [STEPS]` writes minimal.png.
"""

import sys

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

import aeoskit as ak


def init(key, sizes):
    """The parameters of a fully connected network."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"w": jax.random.normal(k, (n, m)) / jnp.sqrt(n), "b": jnp.zeros((1, m))}
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def loss(params, batch):
    """One loss per example; the objective is their mean."""
    x, y = batch
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return jnp.sum((x @ params[-1]["w"] + params[-1]["b"] - y) ** 2, axis=-1)


def train(steps, every=10):
    """Full-batch Adam, whose learning rate falls after a third, so that its threshold rises."""
    x = jnp.linspace(-1, 1, 50)[:, None]
    y = jnp.cos(5 * jnp.arccos(x))  # a Chebyshev polynomial
    params = init(jax.random.key(0), (1, 64, 64, 1))
    objective = ak.Objective(loss, (x, y), params=params)
    tx = optax.adam(optax.piecewise_constant_schedule(5e-3, {steps // 3: 0.7}))
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(objective.gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    # Each measurement starts from the last one, and takes a few Hessian-vector products.
    solver, start, rows = ak.Tracking(value_rtol=1e-2), None, []
    for t in range(steps):
        if t % every == 0:
            edge = ak.preconditioned_sharpness(
                objective, params, tx, state, solver=solver, start=start
            )
            start = edge.solution.state
            rows.append((t, objective.value(params), edge.values[0], edge.threshold, edge.ratio))
            if t % (20 * every) == 0:
                print(
                    "step {:4d}   loss {:.2e}   λ₁(P⁻¹H) {:.4g} / {:.4g} = {:.3f}".format(*rows[-1])
                )
        params, state = step(params, state)
    return [jnp.array(column) for column in zip(*rows, strict=True)]


def draw(t, losses, eigenvalues, thresholds, ratios):
    """The three curves; at first, P has seen few gradients, and the eigenvalue is off the scale."""
    figure = Figure(figsize=(7, 6.5), layout="constrained")
    top, middle, bottom = figure.subplots(3, sharex=True)
    top.plot(t, eigenvalues, label="λ₁(P⁻¹H)")
    top.plot(t, thresholds, "k--", drawstyle="steps-post", label="threshold, 38/η")
    top.set(ylim=(0, 1.6 * thresholds.max()))
    top.legend(loc="lower right")
    middle.plot(t, ratios)
    middle.axhline(1, color="k", linestyle="--")
    middle.set(ylim=(0, 1.6), ylabel="ratio")
    bottom.semilogy(t, losses)
    bottom.set(ylabel="loss", xlabel="step")
    return figure


if __name__ == "__main__":
    curves = train(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
    draw(*curves).savefig("minimal.png", dpi=150)
    print("drawn: minimal.png")
