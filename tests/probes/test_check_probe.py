"""`check_probe`: shipped probes pass, and each rule refuses a probe that breaks it."""

import random

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.core import Tracer

from aeoskit import optimizers
from aeoskit.linalg import Lanczos, tree_norm
from aeoskit.objective import Objective
from aeoskit.probes import (
    AbstractProbe,
    Evaluation,
    FlipMultiplier,
    LossAndGradient,
    PreconditionedSharpness,
    Sharpness,
    StabilityThreshold,
    check_probe,
)


def linear(params, batch):
    inputs, targets = batch
    return 0.5 * (inputs @ params - targets) ** 2


def error(params, batch):
    inputs, targets = batch
    return ((inputs @ params > 0) != (targets > 0)).astype(float)


DATA = (jax.random.normal(jax.random.key(0), (8, 3)), jnp.array([1.0, -1.0] * 4))
OWN = {"objective": Objective(linear, DATA), "params": jnp.ones(3)}


@pytest.mark.parametrize(
    ("probe", "options"),
    [
        (LossAndGradient(), {}),
        (StabilityThreshold(every=5), {}),
        (StabilityThreshold(), {"optimizer": optimizers.adafactor(1e-2)}),
        (Sharpness(), {}),
        (Sharpness(k=2, solver=Lanczos()), {}),
        (Sharpness(objective=Objective(linear, (DATA[0][:4], DATA[1][:4]))), OWN),
        (PreconditionedSharpness(k=2, overhead=0.2), {}),
        (PreconditionedSharpness(), {"optimizer": optimizers.gradient_descent(0.1)}),
        (FlipMultiplier(), OWN),
        (Evaluation(objectives={"loss2": OWN["objective"], "error": Objective(error, DATA)}), OWN),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, AbstractProbe) else "",
)
@pytest.mark.part(5)
def test_shipped_probes_pass(probe, options):
    check_probe(probe, **options)


class Faulty(AbstractProbe):
    """The norm of the parameters and a count of measurements, with one fault."""

    fault: str = eqx.field(static=True)
    every: int = eqx.field(static=True, default=1)
    option: object = None
    overhead: float | None = eqx.field(static=True, default=None)

    @property
    def measures(self):
        if self.fault == "list":
            return ["norm"]
        return {
            "twice": ("norm", "norm"),
            "reserved": ("norm", "step"),
            "flag": ("norm", "norm_converged"),
            "bare flag": ("norm", "other_converged"),
        }.get(self.fault, ("norm",))

    @property
    def solves(self):
        return "yes" if self.fault == "solves" else False

    @property
    def linearizes(self):
        return self.fault == "linearized"

    def init(self, params, key):
        count = jnp.asarray(0)
        if self.fault == "number state":
            return (0.0, count)
        if self.fault == "init":
            return (tree_norm(params), count)
        if self.fault == "init control flow":
            return (0.0 if tree_norm(params) > 0 else 1.0, count)
        return (jnp.zeros(()), count)

    def measure(self, context, state):
        norm, (last, count) = tree_norm(context.params), state
        after = (norm.astype(last.dtype), count + 1)
        fault = self.fault
        if fault == "single":
            return {"norm": norm}
        if fault == "names":
            return {"norm": norm, "more": norm}, after
        if fault == "float":
            return {"norm": 1.0}, after
        if fault == "nested":
            return {"norm": {"all": norm}}, after
        if fault == "complex":
            return {"norm": norm + 0j}, after
        if fault == "state shape":
            return {"norm": norm}, (jnp.ones(2), count)
        if fault == "state dtype":
            return {"norm": norm}, (after[0].astype(jnp.bfloat16), count)
        if fault == "control flow":
            return {"norm": norm if norm > 0 else -norm}, after
        if fault == "print":
            jax.debug.print("{}", norm)
        if fault == "callback":
            shape = jax.ShapeDtypeStruct((), norm.dtype)
            norm = jax.pure_callback(lambda x: x, shape, norm, vmap_method="sequential")
        if fault == "random":
            norm = norm * random.random()
        if fault == "host" and not isinstance(norm, Tracer):
            norm = norm[None]
        if fault == "linearized" and context.linearization is not None:
            norm = norm[None]
        if fault == "warm":
            norm = jnp.where(count > 0, jnp.nan, norm)
        if fault in ("finite", "flag", "bare flag"):
            finite = jnp.isfinite(norm)
            other = {"flag": "norm_converged", "bare flag": "other_converged"}.get(fault)
            norm = jnp.where(finite, norm, 0.0)
            return {"norm": norm} | ({} if other is None else {other: finite}), after
        return {"norm": norm}, after


@pytest.mark.parametrize("fault", ["none", "flag"])
def test_a_sound_probe_passes(fault):
    check_probe(Faulty(fault=fault))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("list", "return a tuple of names"),
        ("twice", "'norm' twice"),
        ("reserved", "'step', a column of the record"),
        ("solves", "`solves` is 'yes'"),
        ("number state", "make its leaves arrays"),
        ("init", "read their shapes only"),
        ("init control flow", "`init` cannot be traced"),
        ("single", "return a pair"),
        ("names", "exactly these names"),
        ("float", "'norm' is a float"),
        ("nested", "'norm' is a dict"),
        ("complex", "an array of complex64"),
        ("state shape", "another structure, shape or dtype"),
        ("state dtype", "another structure, shape or dtype"),
        ("control flow", "`measure` cannot be traced"),
        ("print", "calls the host"),
        ("callback", "calls the host"),
        ("random", "two traces"),
        ("host", "outside of a program"),
        ("linearized", "with a linearization"),
        ("warm", "nan from the warm one"),
        ("finite", "'norm' is 0.0 where the parameters are NaN"),
        ("bare flag", "'norm' is 0.0 where the parameters are NaN"),
    ],
)
def test_a_fault_is_refused(fault, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_probe(Faulty(fault=fault))
    assert str(caught.value).startswith("check_probe: Faulty: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "`every` is 0"),
        ({"option": {1}}, "unhashable"),
        ({"overhead": 0.2}, "a budget counts products"),
    ],
)
def test_faulty_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_probe(Faulty(fault="none", **options))


def test_what_is_no_probe_is_refused():
    with pytest.raises(TypeError, match="the class Sharpness is not a probe"):
        check_probe(Sharpness)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="objective and params together"):
        check_probe(Sharpness(), params=jnp.ones(3))


def test_a_probe_may_not_suit_an_optimizer():
    """The message is that of the probe, which knows what it needs."""
    with pytest.raises(ValueError, match="searches along a line"):
        check_probe(FlipMultiplier(), optimizer=optimizers.from_optimistix(_bfgs()))


def _bfgs():
    import optimistix

    return optimistix.BFGS(rtol=1e-3, atol=1e-3)
