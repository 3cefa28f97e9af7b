"""The zoo, step by step in double precision: against optax, or against its pseudo-code in numpy."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeoskit import optimizers as ak

STEPS = 100


def parameters() -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(3), 3)
    return {
        "scalar": jnp.asarray(0.7),
        "vector": jax.random.normal(keys[0], (3,)),
        "matrix": jax.random.normal(keys[1], (4, 3)),
        # Longer along the first axis than along the last, and of three: Adafactor sorts them.
        "cube": 2.0 * jax.random.normal(keys[2], (3, 2, 2)),
    }


def gradients() -> dict[str, Any]:
    """A sequence of gradients of sizes that vary, one in three entries exactly zero, one dead."""
    rng = np.random.default_rng(5)

    def sequence(leaf: jax.Array) -> np.ndarray:
        found = rng.normal(size=(STEPS, *leaf.shape)) * np.exp(
            rng.normal(size=(STEPS, *leaf.shape))
        )
        return np.where(rng.uniform(size=found.shape) < 1 / 3, 0.0, found)

    found = jax.tree.map(sequence, parameters())
    found["vector"][:, 1] = 0.0
    return found


def adafactor_in_double(lr: Any, beta1: Any = None, decay: Any = None) -> Any:
    """`optax.adafactor` out of its own parts, its forgetting in double precision as well."""
    parts = [
        optax.scale_by_factored_rms(
            min_dim_size_to_factor=2,
            decay_rate_fn=lambda i, r: 1.0 - jnp.asarray(i + 1.0) ** -jnp.asarray(r),
        ),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_learning_rate(lr, flip_sign=False),
        optax.scale_by_param_block_rms(),
    ]
    if beta1 is not None:
        parts.append(optax.ema(beta1, debias=False))
    if decay is not None:
        parts.append(optax.add_decayed_weights(decay))
    return optax.chain(*parts, optax.scale(-1))


COSINE = optax.cosine_decay_schedule(0.02, 60, 0.1)
CASES: dict[str, tuple[Callable[[], ak.Optimizer], Callable[[], Any]]] = {
    "amsgrad_published": (
        lambda: ak.amsgrad(0.01, 0.8, 0.9, 1e-3, eps_root=1e-4, correction="none"),
        lambda: optax.amsgrad(
            0.01, 0.8, 0.9, 1e-3, 1e-4, bias_correction_mu=False, bias_correction_nu=False
        ),
    ),
    "amsgrad": (
        lambda: ak.amsgrad(ak.Cosine(0.02, 60, final=0.1)),
        lambda: optax.amsgrad(COSINE),
    ),
    "adagrad": (lambda: ak.adagrad(0.1), lambda: optax.adagrad(0.1)),
    "adagrad_from_zero": (
        lambda: ak.adagrad(0.1, 1e-3, initial_accumulator=0.0),
        lambda: optax.adagrad(0.1, 0.0, 1e-3),
    ),
    "adabelief": (lambda: ak.adabelief(0.01), lambda: optax.adabelief(0.01)),
    "adabelief_nesterov": (
        lambda: ak.adabelief(0.01, 0.8, 0.9, 1e-3, eps_root=1e-2, nesterov=True),
        lambda: optax.adabelief(0.01, 0.8, 0.9, 1e-3, 1e-2, nesterov=True),
    ),
    "adafactor_momentum_decay": (
        lambda: ak.adafactor(0.01, beta1=0.8, weight_decay=1e-3, min_dim_size_to_factor=2),
        lambda: adafactor_in_double(0.01, 0.8, 1e-3),
    ),
    "adafactor_plain": (
        lambda: ak.adafactor(
            0.01, 0.6, clipping_threshold=None, parameter_scale=False, factored=False
        ),
        lambda: optax.chain(
            optax.scale_by_factored_rms(
                factored=False, decay_rate_fn=lambda i, _: 1.0 - jnp.asarray(i + 1.0) ** -0.6
            ),
            optax.scale(-0.01),
        ),
    ),
    "adafactor_of_optax": (  # whose forgetting is in single precision
        lambda: ak.adafactor(0.01, beta1=0.9, weight_decay=1e-3),
        lambda: optax.adafactor(
            0.01, momentum=0.9, dtype_momentum=jnp.float64, weight_decay_rate=1e-3
        ),
    ),
    "nadamw": (
        lambda: ak.nadamw(0.01, weight_decay=0.1),
        lambda: optax.nadamw(0.01, weight_decay=0.1),
    ),
    "lion": (lambda: ak.lion(0.01), lambda: optax.lion(0.01)),
    "sign_descent": (lambda: ak.sign_descent(COSINE), lambda: optax.sign_sgd(COSINE)),
}
LOOSE = {"adafactor_of_optax": (1e-5, 1e-8)}


@pytest.mark.parametrize("name", CASES)
def test_equals_optax(name: str, x64: None):
    make_ours, make_theirs = CASES[name]
    ours, theirs = make_ours(), make_theirs()

    @jax.jit
    def run(optimizer, params, grads):
        def step(carry, g):
            p, q, state, other = carry
            updates, state = optimizer.update(g, state, p)
            expected, other = theirs.update(g, other, q)
            p, q = ak.apply_updates(p, updates), optax.apply_updates(q, expected)
            return (p, q, state, other), ((updates, p), (expected, q))

        start = (params, params, optimizer.init(params), theirs.init(params))
        return jax.lax.scan(step, start, grads)[1]

    got, want = run(ours, parameters(), gradients())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == jnp.float64
        assert bool(jnp.isfinite(a).all())
        assert bool(jnp.any(a != 0))
        rtol, atol = LOOSE.get(name, (1e-12, 1e-15))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# Published pseudo-code, one leaf at a time; each returns the updates of all steps.
Sequence = np.ndarray


def adam_like(
    g: Sequence, lr: float, b1: float, metric: Callable[[int, Sequence], np.ndarray]
) -> list[np.ndarray]:
    m = np.zeros_like(g[0])
    updates = []
    for t in range(1, len(g) + 1):
        m = b1 * m + (1 - b1) * g[t - 1]
        updates.append(-lr * m / metric(t, g))
    return updates


def averages(g: Sequence, b2: float, start: Any = 0.0) -> list[np.ndarray]:
    """ν after 0, 1, ... gradients."""
    found = [np.zeros_like(g[0]) + start]
    for gradient in g:
        found.append(b2 * found[-1] + (1 - b2) * gradient**2)
    return found


def published_padam(g: Sequence) -> list[np.ndarray]:
    nu = averages(g, 0.9)
    return adam_like(g, 0.1, 0.8, lambda t, _: np.max(nu[: t + 1], axis=0) ** 0.125 + 1e-8)


def plain_padam(g: Sequence) -> list[np.ndarray]:
    nu = averages(g, 0.9)
    return adam_like(g, 0.1, 0.8, lambda t, _: (nu[t] / (1 - 0.9**t)) ** 0.25 + 1e-3)


def authors_amsgrad(g: Sequence) -> list[np.ndarray]:
    nu = averages(g, 0.9)
    return adam_like(g, 0.01, 0.9, lambda t, _: np.sqrt(np.maximum(nu[t], nu[t - 1])) + 1e-7)


def published_gi_adam(g: Sequence) -> list[np.ndarray]:
    nu = averages(g, 0.99, g[0] ** 2)
    return adam_like(
        g, 0.01, 0.9, lambda t, _: (1 - 0.9**t) * (np.sqrt(nu[t] / (1 - 0.99**t)) + 1e-8)
    )


def uncorrected_gi_adam(g: Sequence) -> list[np.ndarray]:
    nu = averages(g, 0.99, g[0] ** 2)
    return adam_like(g, 0.01, 0.9, lambda t, _: (1 - 0.9**t) * (np.sqrt(nu[t]) + 1e-8))


def adagrad_momentum(g: Sequence) -> list[np.ndarray]:
    return adam_like(g, 0.1, 0.9, lambda t, g: np.sqrt(np.sum(g[:t] ** 2, axis=0)) + 1e-8)


PUBLISHED = {
    "padam": (lambda: ak.padam(0.1, 0.8, 0.9), published_padam),
    "padam_plain": (
        lambda: ak.padam(
            0.1, 0.8, 0.9, 1e-3, power=0.25, maximum="none", correction="second_moment"
        ),
        plain_padam,
    ),
    "amsgrad_authors": (
        lambda: ak.amsgrad(0.01, beta2=0.9, eps=1e-7, correction="none", maximum="previous"),
        authors_amsgrad,
    ),
    "gi_adam": (lambda: ak.gi_adam(0.01, beta2=0.99), published_gi_adam),
    "gi_adam_uncorrected": (
        lambda: ak.gi_adam(0.01, beta2=0.99, correction="first_moment"),
        uncorrected_gi_adam,
    ),
    "adagrad_momentum": (
        lambda: ak.adagrad(0.1, 1e-8, initial_accumulator=0.0, eps_in_root=False, beta1=0.9),
        adagrad_momentum,
    ),
}


@jax.jit
def updates_of(optimizer: ak.Optimizer, params: Any, grads: Any) -> Any:
    def step(state, g):
        updates, state = optimizer.update(g, state, params)
        return state, updates

    return jax.lax.scan(step, optimizer.init(params), grads)[1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_equals_pseudo_code(name: str, x64: None):
    make, pseudo_code = PUBLISHED[name]
    got = updates_of(make(), parameters(), gradients())
    want = jax.tree.map(lambda g: np.stack(pseudo_code(g)), gradients())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_scalar_rmsprop_has_one_moment(x64: None):
    grads = gradients()
    flat = np.concatenate([g.reshape(STEPS, -1) for g in jax.tree.leaves(grads)], axis=1)
    nu, expected = 0.0, []
    for gradient in flat:
        nu = 0.9 * nu + 0.1 * gradient @ gradient
        expected.append(-0.1 * gradient / (np.sqrt(nu) + 1e-8))
    got = updates_of(ak.scalar_rmsprop(0.1, 0.9), parameters(), grads)
    got = np.concatenate([u.reshape(STEPS, -1) for u in jax.tree.leaves(got)], axis=1)
    np.testing.assert_allclose(got, np.stack(expected), rtol=1e-12, atol=1e-15)


METRICS = {
    "amsgrad": lambda: ak.amsgrad(0.1),
    "adagrad": lambda: ak.adagrad(0.1, initial_accumulator=0.0),
    "adabelief": lambda: ak.adabelief(0.1),
    "scalar_rmsprop": lambda: ak.scalar_rmsprop(0.1),
    "adafactor": lambda: ak.adafactor(0.1, min_dim_size_to_factor=2),
}


@pytest.mark.parametrize("name", METRICS)
def test_metric_is_positive_and_is_the_steps_own(name: str):
    """In single precision, dead coordinates and exact zeros included; frozen it steps alike."""
    optimizer, params = METRICS[name](), {n: parameters()[n] for n in ("vector", "matrix")}
    sequence = gradients()
    first, second = (
        {name: jnp.asarray(sequence[name][t], jnp.float32) for name in params} for t in (0, 1)
    )

    @jax.jit
    def check(optimizer, params, first, second):
        _, state = optimizer.update(first, optimizer.init(params), params)
        frozen, held = ak.freeze(optimizer, state, second, params)
        alike = frozen.update(second, held, params)[0]
        updates, after = optimizer.update(second, state, params)
        metrics = (frozen.preconditioner(held), optimizer.preconditioner(after))
        return (
            *(metric.mv(jax.tree.map(jnp.ones_like, params)) for metric in metrics),
            updates,
            alike,
        )

    diagonal, last, updates, alike = check(optimizer, params, first, second)
    assert jax.tree.structure(diagonal) == jax.tree.structure(params)
    for d, same, p in zip(*map(jax.tree.leaves, (diagonal, last, params)), strict=True):
        assert d.shape == p.shape
        assert d.dtype == p.dtype
        assert bool(jnp.all((d > 0) & jnp.isfinite(d)))
        np.testing.assert_allclose(d, same, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(alike), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_adafactor_is_exact_for_squares_of_rank_one():
    rule = ak.Adafactor(min_dim_size_to_factor=2, clipping_threshold=None, parameter_scale=False)
    rows, columns = jnp.array([1.0, 2.0, 0.5]), jnp.array([3.0, 1.0])
    for gradient in (rows[:, None] * columns[None], columns[:, None] * rows[None]):
        state = eqx.filter_jit(rule.update)(gradient, rule.init(gradient))
        assert {leaf.size for leaf in jax.tree.leaves(state.moments)} == {2, 3}
        metric: Any = rule.operator(state, jnp.asarray(1), jnp.asarray(1.0))
        np.testing.assert_allclose(metric.diagonal, gradient, rtol=1e-6)


SCHEDULES = {
    "cosine": (lambda: ak.Cosine(0.02, 60, final=0.1), COSINE),
    "cosine_warm": (
        lambda: ak.Cosine(0.5, 50, warmup=10),
        lambda t: (
            0.5 * (t + 1) / 10 if t < 10 else 0.25 * (1 + np.cos(np.pi * min(t - 10, 40) / 40))
        ),
    ),
    "wsd": (
        lambda: ak.WSD(0.5, 60, decay=20, warmup=4, final=0.2),
        lambda t: 0.5 * min((t + 1) / 4, 1.0) * (1 - 0.8 * min(max(t - 40, 0), 20) / 20),
    ),
    "function": (lambda: ak.FromFunction(COSINE), COSINE),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_threshold_follows_the_schedule(name: str, x64: None):
    make, expected = SCHEDULES[name]
    optimizer = ak.adam(make())
    state = optimizer.init(jnp.zeros(1))
    counts = jnp.arange(59, dtype=jnp.int32)

    @jax.jit
    @jax.vmap
    def both(count):
        at = ak.OptimizerState(count, state.momentum, state.preconditioner)
        return optimizer.learning_rate(at), optimizer.threshold(at)

    rates, thresholds = both(counts)
    want = np.array([float(expected(int(count))) for count in counts])
    np.testing.assert_allclose(rates, want, rtol=1e-12, atol=1e-16)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(thresholds, 38 / want, rtol=1e-12)


@pytest.mark.parametrize("make", [ak.lion, ak.sign_descent])
def test_sign_descent_has_no_metric_and_no_threshold(make: Callable[[float], ak.Optimizer]):
    optimizer, grads = make(0.1), jnp.ones(2)
    state = optimizer.init(jnp.zeros(2))
    for ask in (optimizer.preconditioner, lambda *a: ak.freeze(optimizer, *a)):
        with pytest.raises(ValueError, match="no preconditioner"):
            ask(state, grads)
    assert bool(jnp.isnan(optimizer.threshold(state)))


REFUSED = {
    "maximum": (lambda: ak.amsgrad(0.1, maximum="last"), "maximum must be one of running"),
    "previous corrected": (lambda: ak.amsgrad(0.1, maximum="previous"), 'take correction="none"'),
    "padam power": (lambda: ak.padam(0.1, power=0.6), "power of padam must be at most 0.5"),
    "adagrad singular": (
        lambda: ak.adagrad(0.1, 0.0, initial_accumulator=0.0),
        "eps and eps_root are both 0",
    ),
    "adafactor eps": (lambda: ak.adafactor(0.1, eps=0.0), "eps must be greater than 0"),
    "nesterov": (
        lambda: ak.adabelief(0.1, nesterov=True, correction="none"),
        "NAdam's momentum is always corrected",
    ),
    "first": (
        lambda: ak.scalar_rmsprop(0.1, correction="adam", order="precondition_first"),
        'correction="adam" puts',
    ),
    "wsd": (lambda: ak.WSD(0.1, 10, decay=8, warmup=2), "takes 10 of 10 steps"),
    "cosine": (lambda: ak.Cosine(0.1, 10, final=1.0), "final must be less than 1, got 1.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_adafactor_wants_the_parameters():
    optimizer, params = ak.adafactor(0.1), {"w": jnp.ones(2)}
    state = optimizer.init(params)
    for ask in (optimizer.update, optimizer.preconditioner):
        with pytest.raises(ValueError, match=r"preconditioner\(state, grads, params\)"):
            ask(*((params, state) if ask == optimizer.update else (state, params)))
    with pytest.raises(ValueError, match=r"params\['w'\] has shape \(3,\)"):
        optimizer.update(params, state, {"w": jnp.ones(3)})
    free = ak.adafactor(0.1, parameter_scale=False)
    free.update(params, free.init(params))
