"""How Hessian products are made, what is found to be wrong with them, and their error bars."""

import random

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import aeoskit as ak
from aeoskit.linalg import Arnoldi, tree_norm
from aeoskit.objective import (
    HessianOperator,
    Objective,
    anatomy,
    compare_derivative,
    product_error,
)

KEYS = jax.random.split(jax.random.key(3), 4)
X = jax.random.normal(KEYS[0], (40, 3))
Y = jnp.sin(X[:, 0])
PARAMS = {
    "in": jax.random.normal(KEYS[1], (3, 4)) / 2,
    "bias": jnp.zeros(4),
    "out": jax.random.normal(KEYS[2], (4,)) / 2,
}


def make_loss(activation, target=lambda params, x, y: y):
    def outputs(params, x):
        return activation(x @ params["in"] + params["bias"][None]) @ params["out"]

    def loss(params, batch):
        x, y = batch
        return 0.5 * (outputs(params, x) - target(params, x, y, outputs)) ** 2

    return loss


def plain(params, x, y, outputs):
    return y


def bootstrapped(params, x, y, outputs):
    """A TD target: the value of a state nearby, which is not trained through."""
    return jax.lax.stop_gradient(y + 0.9 * outputs(params, 0.8 * x))


@jax.custom_vjp
def custom(z):
    return jnp.tanh(z)


custom.defvjp(lambda z: (custom(z), z), lambda z, c: ((1 - jnp.tanh(z) ** 2) * c,))


def on_host(function, z):
    like = jax.ShapeDtypeStruct(z.shape, z.dtype)
    return jax.pure_callback(function, like, z, vmap_method="broadcast_all")


@jax.custom_vjp
def called_back(z):
    return on_host(np.tanh, z)


called_back.defvjp(
    lambda z: (called_back(z), z), lambda z, c: (on_host(lambda z: 1 - np.tanh(z) ** 2, z) * c,)
)


def dense(loss):
    """The Jacobian of the field that trains, in float64: a central difference a column."""
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(jax.tree.map(_double, PARAMS))
        batch = (_double(X), _double(Y))
        field = jax.jit(
            lambda w: ravel_pytree(jax.grad(lambda p: jnp.mean(loss(p, batch)))(unravel(w)))[0]
        )
        h = 1e-5
        columns = [
            (field(flat + h * unit) - field(flat - h * unit)) / (2 * h)
            for unit in jnp.eye(flat.size)
        ]
        return np.stack(columns, axis=1)


def _double(x):
    return jnp.asarray(np.asarray(x), jnp.float64)


@pytest.fixture(scope="module")
def hessian():
    return dense(make_loss(jnp.tanh, plain))


@pytest.mark.parametrize(
    ("activation", "product", "microbatch"),
    [
        (jnp.tanh, "forward", None),
        (jnp.tanh, "reverse", 16),
        (jnp.tanh, "difference", 16),
        (custom, "reverse", None),
        (custom, "difference", None),
        (called_back, "difference", None),
    ],
)
@pytest.mark.part(2)
def test_each_product_is_that_of_the_hessian(hessian, activation, product, microbatch):
    objective = Objective(
        make_loss(activation, plain),
        (X, Y),
        params=PARAMS,
        product=product,
        microbatch=microbatch,
    )
    assert objective.symmetric
    assert objective.on_batch(jnp.arange(4)).product == product
    top = np.linalg.eigvalsh(hessian)[-1]
    solution = ak.sharpness(objective, PARAMS, solver=ak.Lanczos(rtol=1e-2))
    assert abs(solution.values[0] - top) <= solution.bounds[0]
    assert solution.bounds[0] <= 0.01 * top
    assert bool(solution.converged[0])
    matrix = objective.hessian(PARAMS).as_matrix()
    np.testing.assert_allclose(matrix, hessian, atol=1e-2 * top)


@pytest.mark.parametrize(
    ("activation", "product", "ways"),
    [
        (custom, "forward", "custom_vjp.*reverse.*difference"),
        (called_back, "forward", "custom_vjp.*reverse.*difference"),
        (called_back, "reverse", "difference"),
    ],
)
def test_a_loss_without_that_derivative_is_refused(activation, product, ways):
    loss = make_loss(activation, plain)
    with pytest.raises(ValueError, match=ways) as caught:
        Objective(loss, (X, Y), params=PARAMS, product=product)
    assert "\n" not in str(caught.value)
    objective = Objective(loss, (X, Y), product=product, symmetric=True)
    with pytest.raises(ValueError, match=ways):
        ak.sharpness(objective, PARAMS)


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.relu])
def test_what_stop_gradient_hides_is_refused(activation):
    loss = make_loss(activation, bootstrapped)
    with pytest.raises(ValueError, match=r"params\['.*stop_gradient.*product=\"difference\"") as e:
        Objective(loss, (X, Y), params=PARAMS)
    assert "\n" not in str(e.value)
    # Without params= at the first use of the curvature.
    objective = Objective(loss, (X, Y))
    with pytest.raises(ValueError, match="stop_gradient"):
        ak.sharpness(objective, PARAMS)
    optimizer = ak.gradient_descent(0.1)
    with pytest.raises(ValueError, match="stop_gradient"):
        ak.preconditioned_sharpness(objective, PARAMS, optimizer, optimizer.init(PARAMS))


def test_a_field_that_is_no_gradient_has_its_jacobian():
    loss = make_loss(jnp.tanh, bootstrapped)
    objective = Objective(loss, (X, Y), params=PARAMS, product="difference")
    assert not objective.symmetric
    values = np.linalg.eigvals(dense(loss))
    top = values[np.argmax(values.real)]
    solution = ak.sharpness(objective, PARAMS, solver=Arnoldi(rtol=1e-2))
    assert abs(solution.values[0] - top) <= solution.bounds[0] <= 0.02 * abs(top)
    optimizer = ak.gradient_descent(0.5)
    edge = ak.preconditioned_sharpness(objective, PARAMS, optimizer, optimizer.init(PARAMS))
    np.testing.assert_allclose(edge.ratio, 0.25 * top.real, rtol=1e-2)
    with pytest.raises(ValueError, match=r"Lanczos.*linalg\.Arnoldi\(\)"):
        ak.sharpness(objective, PARAMS, solver=ak.Lanczos())
    with pytest.raises(ValueError, match="transpose"):
        objective.hessian(PARAMS).transpose()


def test_a_symmetric_jacobian_behind_stop_gradient_is_found():
    """TD(0) on one transition: the field is no gradient, and its Jacobian a tenth of one's."""

    def linear(w, batch):
        f = batch[0] @ w
        return 0.5 * (f - jax.lax.stop_gradient(1 + 0.9 * f)) ** 2

    w = jnp.array([1.0, -2.0, 0.5])
    objective = Objective(linear, (X, Y), params=w, product="difference")
    assert objective.symmetric
    top = np.linalg.eigvalsh(np.asarray(X.T @ X) / 40)[-1]
    solution = ak.sharpness(objective, w, solver=ak.Lanczos())
    np.testing.assert_allclose(solution.values, [0.1 * top], rtol=1e-2)
    # One that differs from its transpose by a few per cent.
    loss = make_loss(jnp.tanh, lambda p, x, y, f: jax.lax.stop_gradient(0.9 * f(p, 0.9 * x)))
    matrix = dense(loss)
    assert 0.03 < np.linalg.norm(matrix - matrix.T) / np.linalg.norm(matrix) < 0.2
    assert not Objective(loss, (X, Y), params=PARAMS, product="difference").symmetric


def test_the_refusal_says_how_many_leaves_and_how_far():
    def loss(w, x):
        f = x * w["a"] + w["b"]
        return 0.5 * (f - jax.lax.stop_gradient(2 * f)) ** 2

    params = {"a": jnp.ones(()), "b": jnp.ones(())}
    with pytest.raises(ValueError, match=r" and 1 other leaf they differ by 200 %, so that"):
        Objective(loss, X[:, 0], params=params)


def test_a_reversed_gradient_by_reverse_products():
    """A custom_vjp that trains one layer backwards: no gradient, and seen in reverse."""

    @jax.custom_vjp
    def reversal(z):
        return z

    reversal.defvjp(lambda z: (z, None), lambda _, c: (-c,))

    def loss(params, batch):
        x, y = batch
        hidden = reversal(jnp.tanh(x @ params["in"] + params["bias"][None]))
        return 0.5 * (hidden @ params["out"] - y) ** 2

    objective = Objective(loss, (X, Y), params=PARAMS, product="reverse")
    assert not objective.symmetric
    matrix = dense(loss)
    assert np.abs(matrix - matrix.T).max() > 0.1
    np.testing.assert_allclose(objective.hessian(PARAMS).as_matrix(), matrix, atol=1e-3)


SMOOTH = {
    "relu": jax.nn.relu,
    "pooled": lambda z: jnp.repeat(jnp.maximum(z[:, ::2], z[:, 1::2]), 2, axis=1),
    "steep": lambda z: jnp.sin(30 * z),
    "normalized": lambda z: z / jnp.linalg.norm(z, axis=1, keepdims=True),
    "softmax": jax.nn.softmax,
}


@pytest.mark.parametrize("name", list(SMOOTH))
@pytest.mark.part(2)
def test_losses_that_hide_nothing_are_not_refused(name):
    for size in (1.0, 8.0):
        params = jax.tree.map(lambda x, size=size: size * x, PARAMS)
        loss = make_loss(SMOOTH[name], plain)
        objective = Objective(loss, (X, Y), params=params, product="difference")
        assert objective.symmetric
        Objective(loss, (X, Y), params=params)


def test_reduced_precision_inside_is_in_the_bar():
    def rounded(z):
        return jnp.tanh(z.astype(jnp.bfloat16)).astype(z.dtype)

    def loss(params, batch):
        x, y = batch
        hidden = rounded(x @ params["in"] + params["bias"][None])
        return 0.5 * ((hidden.astype(jnp.bfloat16) @ params["out"].astype(jnp.bfloat16)) - y) ** 2

    objective = Objective(loss, (X, Y), params=PARAMS)
    top = np.linalg.eigvalsh(dense(make_loss(jnp.tanh, plain)))[-1]
    solution = ak.sharpness(objective, PARAMS)
    assert abs(solution.values[0] - top) <= solution.bounds[0]
    assert not bool(solution.converged[0])
    exact = ak.sharpness(Objective(make_loss(jnp.tanh, plain), (X, Y)), PARAMS)
    assert exact.bounds[0] < solution.bounds[0] / 10


def test_product_error_is_the_size_of_the_error():
    objective = Objective(make_loss(jnp.tanh, plain), (X, Y), product="difference", symmetric=True)
    operator = objective.hessian(PARAMS)
    exact = Objective(objective.loss, (X, Y)).hessian(PARAMS)
    assert isinstance(operator, HessianOperator)
    v = jax.tree.map(jnp.ones_like, PARAMS)
    assert product_error(exact, v) is None
    error = product_error(operator, v)
    gap = jax.tree.map(jnp.subtract, operator.mv(v), exact.mv(v))
    sizes = [float(tree_norm(x)) for x in (gap, error, exact.mv(v))]
    assert sizes[0] <= sizes[1] <= 0.01 * sizes[2]


def test_gradients_that_are_nan_are_refused():
    def loss(params, batch):
        return jnp.where(batch > 0, jnp.sqrt(batch * params["w"]), 0.0) + params["v"] ** 2

    params = {"v": jnp.ones(()), "w": jnp.ones(())}
    with pytest.raises(ValueError, match=r"gradient at params\['w'\].*where"):
        Objective(loss, jnp.array([0.0, 1.0]), params=params)


def test_numbers_drawn_at_trace_time_are_refused():
    def loss(w, x):
        return random.random() * (x - w) ** 2

    objective, w = Objective(loss, jnp.arange(4.0)), jnp.asarray(1.0)
    with pytest.raises(ValueError, match="random"):
        objective.hessian(w)
    with pytest.raises(ValueError, match="random"):
        Objective(loss, jnp.arange(4.0), params=w)


def test_a_typed_key_in_the_closure():
    key = jax.random.key(0)

    def loss(w, x):
        return (x - w) ** 2 * jax.random.uniform(key, x.shape)

    def grows(w, x):  # one key a trace
        return (x - w) ** 2 * jax.random.uniform(jax.random.key(random.randrange(2**31)), x.shape)

    w = jnp.asarray(1.0)
    Objective(loss, jnp.arange(4.0), params=w).hessian(w)
    with pytest.raises(ValueError, match="random"):
        Objective(grows, jnp.arange(4.0), params=w)


def masked(w, batch):
    """Tokens, some masked: the mean over those of a batch is no mean over batches."""
    x, y, mask = batch
    losses = -jnp.sum(jax.nn.log_softmax(x @ w) * y, axis=-1)
    return jnp.sum(losses * mask) / jnp.sum(mask)


def uneven(w, batch):
    """Per-example losses that are equal at zero, and coupled."""
    x, _, mask = batch
    return jnp.sum((x @ w) ** 2, (1, 2)) / jnp.mean(mask)


def no_weight(w, batch):
    x, _, mask = batch
    return jnp.sum((x @ w) ** 2), jnp.max(mask)


@pytest.mark.parametrize("loss", [masked, uneven, no_weight])
def test_means_that_are_none_are_refused_where_all_losses_are_equal(loss):
    x = jax.random.normal(KEYS[3], (8, 6, 3))
    y = jax.nn.one_hot(jnp.argmax(x, -1), 4)
    mask = (jnp.arange(6)[None] < jnp.where(jnp.arange(8) < 4, 2, 6)[:, None]).astype(float)
    start = jnp.zeros((3, 4))
    Objective(loss, (x, y, mask), params=start)
    with pytest.raises(ValueError, match="couples examples"):
        Objective(loss, (x, y, mask), params=start, microbatch=4)


def test_a_derivative_is_compared_inside_jit():
    class Stopped(eqx.Module):
        def __call__(self, x):
            return {"a": jnp.sin(x), "b": x * jax.lax.stop_gradient(x)}

    @jax.jit
    def differs(x):
        image = jax.jvp(Stopped(), (x,), (x,))[1]
        return compare_derivative(Stopped(), x, x, image).differs()

    assert differs(jnp.array([0.5, 1.0])).tolist() == [False, True]
    assert anatomy(Stopped(), jnp.ones(2)).hiding == {"stop_gradient"}
