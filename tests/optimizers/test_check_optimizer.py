"""`check_optimizer` passes what keeps its promises, and refuses what breaks one."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optimistix as optx
import pytest

from aeoskit import optimizers as ak
from aeoskit.linalg import DiagonalPreconditioner, IdentityPreconditioner

# Of others, and of ours what a name does not make by default.
MORE: dict[str, Any] = {
    "adam_cosine": lambda: ak.adam(ak.Cosine(0.1, 4000, warmup=3)),
    "nesterov_ema": lambda: ak.nesterov(0.1, form="ema", weight_decay=0.3),
    "rmsprop_polyak": lambda: ak.rmsprop(0.1, beta1=0.9, weight_decay=0.1),
    "adafactor_momentum": lambda: ak.adafactor(0.1, beta1=0.9, min_dim_size_to_factor=2),
    "cascade": lambda: ak.Optimizer(0.1, ak.Cascade(ak.EMA(0.9), ak.EMA(0.9)), ak.RMS()),
    "lion_turning": lambda: ak.Optimizer(0.1, ak.LionMomentum(0.9, 0.1), ak.RMS()),
    "filter": lambda: ak.Optimizer(0.1, ak.LinearMomentum(0.5, [0.2, 0.1], [0.9, 0.3])),
    # A complex pair leaves the circle before -1 is a root.
    "filter_turning": lambda: ak.Optimizer(0.1, ak.LinearMomentum(1.0, [0.5, 0.8], [0.9, 0.5])),
    "optax adamw": lambda: optax.adamw(1e-2),
    "optax nesterov": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "optax rmsprop": lambda: optax.rmsprop(1e-2, momentum=0.9),
    "optax clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
    "optimistix": lambda: optx.BFGS(1e-6, 1e-6),
}


@pytest.mark.parametrize("name", ak.NAMED)
@pytest.mark.part(8)
def test_every_named_optimizer_passes(name: str):
    ak.check_optimizer(ak.NAMED[name](0.1))


@pytest.mark.parametrize("name", MORE)
@pytest.mark.part(4)
def test_others_pass(name: str):
    ak.check_optimizer(MORE[name]())


def test_in_double_precision(x64: None):
    ak.check_optimizer(ak.adamw(0.1, weight_decay=0.2))


class Wrapped(ak.AbstractGradientOptimizer):
    """Momentum with decay, and whatever a subclass does wrong."""

    inner: ak.Optimizer = eqx.field(default_factory=lambda: ak.momentum(0.1))

    has_metric = True
    has_threshold = True

    def init(self, params):
        return self.inner.init(params)

    def update(self, grads, state, params=None):
        return self.inner.update(grads, state, params)

    def preconditioner(self, state, grads=None, params=None):
        return self.inner.preconditioner(state, grads, params)

    def threshold(self, state, params=None):
        return self.inner.threshold(state)

    def learning_rate(self, state, params=None):
        return self.inner.learning_rate(state)

    def recursion(self, state, params=None):
        return self.inner.recursion(state)


class GrowingState(Wrapped):
    def update(self, grads, state, params=None):
        updates, state = self.inner.update(grads, state, params)
        half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.momentum)
        return updates, eqx.tree_at(lambda s: s.momentum, state, half)


class OtherContainers(Wrapped):
    def update(self, grads, state, params=None):
        state = state[0] if isinstance(state, tuple) else state
        updates, state = self.inner.update(grads, state, params)
        return updates, (state,)


class TextInState(Wrapped):
    def init(self, params):
        return self.inner.init(params), "text"


class HalfUpdates(Wrapped):
    def update(self, grads, state, params=None):
        updates, state = self.inner.update(grads, state, params)
        return jax.tree.map(lambda u: u.astype(jnp.float16), updates), state


class Impure(Wrapped):
    """Each trace has another step."""

    calls: list = eqx.field(static=True, default_factory=list)

    def update(self, grads, state, params=None):
        self.calls.append(None)
        updates, state = self.inner.update(grads, state, params)
        return jax.tree.map(lambda u: u * len(self.calls), updates), state


class Stuck(Wrapped):
    """The learning rate stays at the first step's."""

    inner: ak.Optimizer = eqx.field(
        default_factory=lambda: ak.gradient_descent(ak.LinearWarmup(0.1, 10))
    )

    @property
    def schedule(self):
        return self.inner.schedule

    def update(self, grads, state, params=None):
        updates, after = self.inner.update(grads, state, params)
        return updates, eqx.tree_at(lambda s: s.count, after, state.count)


class VectorRate(Wrapped):
    def learning_rate(self, state, params=None):
        return jnp.ones(2)


class NotStackable(Wrapped):
    """Its learning rate is in a closure."""

    inner: Any = eqx.field(static=True, default=None)
    stackable = True
    has_metric = has_threshold = False

    def init(self, params):
        return ()

    def update(self, grads, state, params=None):
        return jax.tree.map(lambda g: -0.1 * g, grads), state

    def preconditioner(self, state, grads=None, params=None):
        raise ValueError("none")

    def threshold(self, state, params=None):
        return jnp.asarray(jnp.nan)

    def learning_rate(self, state, params=None):
        return jnp.asarray(0.1)


class SilentThreshold(Wrapped):
    has_threshold = False


class SilentMetric(Wrapped):
    has_metric = has_threshold = False

    def threshold(self, state, params=None):
        return jnp.asarray(jnp.nan)


class NoMetricButThreshold(Wrapped):
    has_metric = False


class WrongThreshold(Wrapped):
    def threshold(self, state, params=None):
        return 38 / self.inner.learning_rate(state)

    inner: ak.Optimizer = eqx.field(default_factory=lambda: ak.nesterov(0.1))


class WrongLateThreshold(WrongThreshold):
    """Without a recurrence the multipliers of the update find it."""

    def recursion(self, state, params=None):
        raise ValueError("no recurrence")


class WrongRate(Wrapped):
    def learning_rate(self, state, params=None):
        return 2 * self.inner.learning_rate(state)


class OtherRate(Wrapped):
    """Recursion and learning rate agree, and the step has another one."""

    def update(self, grads, state, params=None):
        updates, state = self.inner.update(grads, state, params)
        return jax.tree.map(lambda u: 2 * u, updates), state


class OfAnotherStep(Wrapped):
    """P is the identity, and the step is RMSProp's."""

    inner: ak.Optimizer = eqx.field(default_factory=lambda: ak.rmsprop(0.1))

    def preconditioner(self, state, grads=None, params=None):
        return IdentityPreconditioner(grads)


class NotEuclidean(Wrapped):
    inner: ak.Optimizer = eqx.field(default_factory=lambda: ak.rmsprop(0.1))

    @property
    def is_euclidean(self):
        return True


class WithMetric(Wrapped):
    """Momentum over a metric of one's own."""

    metric: type = eqx.field(static=True, default=DiagonalPreconditioner)

    def preconditioner(self, state, grads=None, params=None):
        return self.metric(jax.tree.map(lambda x: jnp.full_like(x, 4.0), grads))


class Skew(DiagonalPreconditioner):
    """Entries of one leaf are mixed, and not back."""

    def mv(self, vector):
        image = DiagonalPreconditioner.mv(self, vector)
        return {**image, "b": image["b"] + jnp.cumsum(image["b"])}


class Negative(DiagonalPreconditioner):
    def mv(self, vector):
        return jax.tree.map(lambda x: -x, vector)


class WrongInverse(DiagonalPreconditioner):
    def inv_mv(self, vector):
        return vector


class WrongRoot(DiagonalPreconditioner):
    def sqrt_mv(self, vector):
        return self.mv(vector)


class WrongInverseRoot(DiagonalPreconditioner):
    def inv_sqrt_mv(self, vector):
        return self.inv_mv(vector)


class Elsewhere(DiagonalPreconditioner):
    def in_structure(self):
        return {"b": jax.ShapeDtypeStruct((3,), jnp.float32)}


class Cubed(ak.NoMomentum):
    """A step that is no filter of the directions."""

    def update(self, direction, state):
        return jax.tree.map(lambda g: g**3, direction), state


class FlipOnly(ak.LinearMomentum):
    """A filter with the curvature at which -1 is a root as its threshold."""

    def __init__(self):
        super().__init__(1.0, [0.5, 0.8], [0.9, 0.5])

    def threshold(self, lr, weight_decay):
        gain = self.now - sum(w / (1 + d) for w, d in zip(self.weights, self.decays, strict=True))
        return (2 - lr * weight_decay) / (lr * gain)


class Unsaid(ak.NoMomentum):
    def threshold(self, lr, weight_decay):
        return 38 / lr


class Quadratic(ak.NoMomentum):
    """Its threshold is not inversely proportional to the learning rate."""

    def threshold(self, lr, weight_decay):
        return 2 / lr**2


class Slow(ak.AbstractMomentum):
    """Steps as momentum, and declares itself gradient descent."""

    def init(self, params):
        return ak.EMA(0.9).init(params)

    def update(self, direction, state):
        return ak.EMA(0.9).update(direction, state)

    def threshold(self, lr, weight_decay):
        return ak.NoMomentum().threshold(lr, weight_decay)

    def recurrence(self, curvature, lr, weight_decay):
        return ak.NoMomentum().recurrence(curvature, lr, weight_decay)

    def bias_correction(self, count):
        return jnp.ones_like(count, dtype=float)


class SlowSecretly(Slow):
    """Its response at a step is right as well: only the quadratic tells."""

    def update(self, direction, state):
        buffer = jax.tree.map(lambda g, v: 0.9 * v + g, direction, state)
        return buffer, buffer


class Frozenish(ak.Identity):
    """Half as long a step again as that of its P, from the second one on."""

    def precondition(self, direction, state, count, bias):
        scale = 1 + jnp.where(count > 1, 0.5, 0.0)
        return jax.tree.map(lambda x: scale.astype(x.dtype) * x, direction)


BROKEN: dict[str, tuple[Any, str]] = {
    "state dtype": (GrowingState, r"state.momentum\['b'\] is bfloat16\[3\] after a step and float"),
    "state containers": (OtherContainers, r"state.* is missing after a step"),
    "state text": (TextInState, r"state\[1\] is a str, not an array"),
    "update dtype": (HalfUpdates, r"updates\['b'\] is float16\[3\] after a step"),
    "impure": (Impure, "has to be a pure function"),
    "stuck schedule": (Stuck, r"after 1 steps is 0.01 and that of its schedule 0.02: count"),
    "vector rate": (VectorRate, r"learning_rate has shape \(2,\): return a scalar"),
    "stackable": (NotStackable, "no hyperparameter is an array leaf"),
    "silent threshold": (SilentThreshold, "has_threshold is False, but threshold is 380"),
    "silent metric": (SilentMetric, "has_metric is False, but preconditioner returns one"),
    "threshold without P": (NoMetricButThreshold, "has_threshold is True, but has_metric is not"),
    "threshold": (WrongThreshold, "spectral radius of its recurrence is .* has to pass 1 at"),
    "threshold of multipliers": (WrongLateThreshold, "at 0.95 times the threshold 380 the smal"),
    "learning rate": (WrongRate, "learning_rate is 0.2, and that of its recursion 0.1"),
    "rate of the step": (
        OtherRate,
        "a step responds to P v by -0.02 v.* should respond by -0.01 v",
    ),
    "P of another step": (OfAnotherStep, "P times the first step is not opposite to the gradients"),
    "not euclidean": (NotEuclidean, "is_euclidean is True, but P is not the identity"),
    "structure": (lambda: WithMetric(metric=Elsewhere), "P is an operator on another structure"),
    "symmetry": (lambda: WithMetric(metric=Skew), "P is not symmetric"),
    "definite": (lambda: WithMetric(metric=Negative), "P is not positive definite"),
    "inverse": (lambda: WithMetric(metric=WrongInverse), "inv_mv is not the inverse of mv"),
    "root": (lambda: WithMetric(metric=WrongRoot), "sqrt_mv twice is not mv"),
    "inverse root": (lambda: WithMetric(metric=WrongInverseRoot), "inv_sqrt_mv twice is not inv"),
    "not linear": (lambda: ak.Optimizer(0.1, Cubed()), "opposite to the gradients|not linear"),
    "closed form": (lambda: ak.Optimizer(0.1, Unsaid()), "spectral radius of its recurrence"),
    # The pair of a filter with two buffers leaves before -1 is a root.
    "filter": (
        lambda: ak.Optimizer(0.1, FlipOnly()),
        "spectral radius of its recurrence is 1.05925 at 0.08 times the threshold 98.2759",
    ),
    "tuned": (lambda: ak.Optimizer(0.1, Quadratic()), "with_threshold gives it a threshold of"),
    "response": (lambda: ak.Optimizer(0.1, Slow()), "a step responds to P v by -0.01 v"),
    "simulated": (lambda: ak.Optimizer(0.1, SlowSecretly()), "with P frozen a quadratic converg"),
    "frozen": (lambda: ak.Optimizer(0.1, None, Frozenish()), "is another one: P"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused(name: str):
    make, message = BROKEN[name]
    with pytest.raises(ValueError, match=message) as caught:
        ak.check_optimizer(make())
    assert str(caught.value).startswith("check_optimizer: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match="pass an aeoskit optimizer"):
        ak.check_optimizer(0.1)
    with pytest.raises(ValueError, match="at most 256 parameters, got 400"):
        ak.check_optimizer(ak.adam(0.1), jnp.ones((20, 20)))
    with pytest.raises(ValueError, match="pass other `steps` or another schedule"):
        ak.check_optimizer(ak.gradient_descent(ak.Cosine(0.1, 20)), steps=50)


def test_parameters_of_ones_own():
    ak.check_optimizer(ak.shampoo(0.1, 0.9), [jnp.ones((2, 2, 2)), None, jnp.ones(())])
