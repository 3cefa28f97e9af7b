"""The contract test of a probe, for the shipped ones and for yours."""

import re
from collections.abc import Iterator
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from aeoskit.linalg.extend import inner_jaxprs
from aeoskit.objective import Objective, directions
from aeoskit.optimizers import adam, as_optimizer

from ._base import AbstractProbe, ProbeContext, check_every
from ._budget import budget_columns

# Names that a run's record gives to its own columns and dimensions.
_RESERVED = ("branch", "lane", "step", "index", "diverged_at")
_CALLBACKS = ("callback", "debug_print", "infeed", "outfeed")
_CONVERGED = "_converged"
_KEYS = "take random numbers from `context.key`, and keep what changes in the state."


def check_probe(
    probe: Any,
    *,
    objective: Objective | None = None,
    params: PyTree | None = None,
    optimizer: Any = None,
    seed: int = 0,
) -> None:
    """Refuses a probe that breaks what a trajectory needs of all probes.

    It measures along a few steps of a small problem, cold and then warm, as one compiled program:
    a `scan` under `vmap`, with the probe inside a `cond`. It checks that

    - `every`, `measures`, `solves` and `linearizes` are what `AbstractProbe` documents, no name is
      one that a record uses itself, and what is not an array in the probe can be hashed;
    - `init` reads shapes only, and `measure` keeps the structure, shapes and dtypes of the state;
    - a measurement is a flat mapping from each name of `measures` to a real array, with the same
      shapes and dtypes in a program, on the host, and with a linearization;
    - the program calls nothing on the host, and is deterministic;
    - a warm start does not lose a number that a cold one finds;
    - where the parameters are NaN, a number that depends on them is not finite, or flagged: the
      measurement `<name>_converged` is False.

    It runs on the host, compiles one program (and those of the probe's solver on the host), and
    takes seconds to a minute.

    Args:
        probe: the probe, with the options to be tried.
        objective: the mean loss to measure; a net with 16 parameters if None.
        params: parameters of that objective, any pytree of floating arrays.
        optimizer: the optimizer that steps; `adam(0.01)` if None.
        seed: of the default problem, and of the keys.

    Raises:
        TypeError: it is not a probe.
        ValueError: the probe breaks one of the rules above, which the message names with its fix;
            or only one of `objective` and `params` is given.

    Example:
        >>> from aeoskit.probes import LossAndGradient
        >>> check_probe(LossAndGradient())
    """
    if not isinstance(probe, AbstractProbe):
        what = f"the class {probe.__name__}" if isinstance(probe, type) else repr(probe)
        raise TypeError(f"check_probe: {what} is not a probe; pass one, such as Sharpness().")
    if (objective is None) != (params is None):
        raise ValueError("check_probe: give objective and params together, or neither.")
    _check_declarations(probe)
    if objective is None:
        objective, params = _problem(seed)
    point = _Point(probe, objective, params, optimizer, seed)
    _check_trace(point)
    _check_numbers(point)


def _fail(probe: AbstractProbe, reason: str, cause: Exception | None = None) -> NoReturn:
    raise ValueError(f"check_probe: {type(probe).__name__}: {reason}") from cause


def _first_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _check_declarations(probe: AbstractProbe) -> None:
    try:
        check_every(probe.every)
        budget_columns(probe)
    except ValueError as error:
        _fail(probe, str(error), error)
    names = probe.measures
    if not isinstance(names, tuple) or not names or not all(isinstance(x, str) for x in names):
        _fail(probe, f"`measures` is {names!r}; return a tuple of names, one at least.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        _fail(probe, f"`measures` has {twice[0]!r} twice; give each quantity a name of its own.")
    reserved = [name for name in names if name in _RESERVED]
    if reserved:
        _fail(probe, f"`measures` has {reserved[0]!r}, a column of the record; use another name.")
    for name in ("solves", "linearizes"):
        if not isinstance(getattr(probe, name), bool):
            _fail(probe, f"`{name}` is {getattr(probe, name)!r}; return True or False.")
    try:
        hash(tuple(jax.tree.leaves(eqx.filter(probe, eqx.is_array, inverse=True))))
    except TypeError as error:
        _fail(probe, f"{error}, so that no program takes the probe; make it static.", error)


def _loss(params: PyTree, batch: Any) -> Any:
    inputs, targets = batch
    return 0.5 * (jnp.tanh(inputs @ params["hidden"]) @ params["out"] - targets) ** 2


def _problem(seed: int) -> tuple[Objective, PyTree]:
    rng = np.random.default_rng(seed)
    inputs, targets, hidden, out = (
        jnp.asarray(rng.normal(size=shape), float) for shape in ((8, 3), (8,), (3, 4), (4,))
    )
    return Objective(_loss, (inputs, targets)), {"hidden": hidden, "out": out}


def _signature(tree: PyTree) -> tuple[Any, Any]:
    """Structure, shapes and dtypes; weak types do not count."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(x.shape, jnp.dtype(x.dtype)) if hasattr(x, "dtype") else x for x in leaves]


class _Point(eqx.Module):
    """A probe and a point of a run by a few steps of the optimizer."""

    probe: AbstractProbe
    objective: Objective
    params: PyTree
    optimizer: Any
    optimizer_state: PyTree
    key: Any

    def __init__(
        self, probe: AbstractProbe, objective: Objective, params: PyTree, optimizer: Any, seed: int
    ):
        self.probe, self.objective, self.key = probe, objective, jax.random.key(seed)
        self.optimizer = adam(1e-2) if optimizer is None else as_optimizer(optimizer)
        state = self.optimizer.init(params)
        # A few steps, so that the optimizer's state is not blank.
        for _ in range(2):
            params, state = self.optimizer.step(objective.value, params, state)
        self.params, self.optimizer_state = params, state

    def init(self, params: PyTree) -> PyTree:
        return self.probe.init(params, self.key)

    def measure(
        self, params: PyTree, state: PyTree, step: Any, linearize: bool = False, **options: Any
    ) -> Any:
        if linearize:
            options["linearization"] = self.objective.linearize(params)
        value, grads = self.objective.value_and_gradient(params)
        context = ProbeContext(
            objective=self.objective,
            params=params,
            optimizer=self.optimizer,
            optimizer_state=self.optimizer_state,
            value=value,
            grads=grads,
            step=step,
            key=jax.random.fold_in(self.key, step),
            **options,
        )
        return self.probe.measure(context, state)


def _traced(point: _Point, function: Any, *args: Any, what: str) -> tuple[Any, Any]:
    """The jaxpr of a function of the point, and what it returns, as shapes."""
    try:
        jaxpr, arrays, rest = eqx.filter_make_jaxpr(function)(point, *args)
    except Exception as error:  # whatever the probe's own code raises
        _fail(
            point.probe,
            f"`{what}` cannot be traced ({_first_words(error)}); use jax.numpy and jax.lax, and no "
            "Python control flow on numbers.",
            error,
        )
    return jaxpr, eqx.combine(arrays, rest)


def _text(jaxpr: Any) -> str:
    """A jaxpr as text, without the addresses of the functions in it."""
    return re.sub(r"0x[0-9a-f]+", "", str(jaxpr))


def _primitives(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in inner_jaxprs(equation):
            yield from _primitives(inner)


def _check_output(probe: AbstractProbe, out: Any, state: PyTree, where: str) -> Any:
    """Checks what `measure` returned, arrays or shapes; returns the measurement's signature."""
    if not isinstance(out, tuple) or len(out) != 2:
        _fail(
            probe,
            f"`measure` returns a {type(out).__name__} {where}; return a pair, the measurement and "
            "the next state.",
        )
    measurement, after = out
    if not isinstance(measurement, dict) or set(measurement) != set(probe.measures):
        found = sorted(map(str, measurement)) if isinstance(measurement, dict) else measurement
        _fail(
            probe,
            f"`measure` measures {found!r} {where}, and `measures` has {sorted(probe.measures)}; "
            "return a dict with exactly these names.",
        )
    for name, value in measurement.items():
        kind = jnp.dtype(value.dtype).kind if hasattr(value, "dtype") else None
        # bfloat16 and its like are of kind V.
        if kind is None or kind not in "fiubV":
            what = f"an array of {value.dtype}" if kind else f"a {type(value).__name__}"
            _fail(
                probe,
                f"{name!r} is {what} {where}; measure one array of real numbers or booleans a "
                "name (the parts of a complex number or of a tree under names of their own).",
            )
    if _signature(after) != _signature(state):
        _fail(
            probe,
            f"`measure` returns a state of another structure, shape or dtype {where}, "
            f"{jax.eval_shape(lambda: after)} for {jax.eval_shape(lambda: state)}; a loop carries "
            "it only if they agree.",
        )
    return _signature(measurement)


def _check_trace(point: _Point) -> None:
    probe = point.probe
    _, state = _traced(point, lambda p, x: p.init(x), point.params, what="init")
    if not all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(state)):
        _fail(probe, f"the state is {state!r}; make its leaves arrays.")
    blank = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), point.params)
    states = [jax.tree.leaves(point.init(x)) for x in (point.params, blank)]
    if not all(map(_same, *states)):
        _fail(probe, "`init` depends on the values of the parameters; read their shapes only.")
    state, step = point.init(point.params), jnp.asarray(0)

    def measure(p: _Point, params: PyTree, state: PyTree, step: Any) -> Any:
        return p.measure(params, state, step)

    args = (point.params, state, step)
    jaxpr, out = _traced(point, measure, *args, what="measure")
    signature = _check_output(probe, out, state, "in a program")
    repeated, _ = _traced(point, measure, *args, what="measure")
    if _text(jaxpr) != _text(repeated) or not all(map(_same, jaxpr.consts, repeated.consts)):
        _fail(probe, f"two traces of `measure` differ; {_KEYS}")
    used = sorted({x for x in _primitives(jaxpr.jaxpr) if any(y in x for y in _CALLBACKS)})
    if used:
        _fail(
            probe,
            f"`measure` calls the host from a compiled program ({', '.join(used)}); measure what "
            "is wanted, and print it from the chunks that `stream` yields.",
        )
    if probe.linearizes:
        _, out = _traced(
            point, lambda p, *rest: p.measure(*rest, linearize=True), *args, what="measure"
        )
        if _check_output(probe, out, state, "with a linearization") != signature:
            _fail(probe, "shapes or dtypes differ with a linearization; measure the same.")
    try:
        out = point.measure(*args, driver="host")
    except Exception as error:  # whatever the probe's own code raises
        reason = f"`measure` fails outside of a program ({_first_words(error)})"
        _fail(probe, f"{reason}; pass `context.driver` on to solves.", error)
    if _check_output(probe, out, state, "outside of a program") != signature:
        _fail(probe, "shapes or dtypes differ outside of a program; measure the same in both.")


def _same(a: Any, b: Any) -> bool:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _run(point: _Point, lanes: PyTree) -> dict[str, Any]:
    """The measurements `(lanes, steps, ...)` of a scan under vmap."""

    def lane(params: PyTree) -> dict[str, Any]:
        def body(state: PyTree, inputs: tuple[PyTree, Any]) -> Any:
            params, step = inputs
            measure = eqx.filter_closure_convert(point.measure, params, state, step)
            measurement, _ = measure.out_struct
            skipped = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), measurement)
            found, state = jax.lax.cond(
                step >= 0, lambda: measure(params, state, step), lambda: (skipped, state)
            )
            return state, found

        first = jax.tree.map(lambda x: x[0], params)
        steps = jnp.arange(jax.tree.leaves(params)[0].shape[0])
        return jax.lax.scan(body, point.init(first), (params, steps))[1]

    return jax.vmap(lane)(lanes)


def _sequences(params: PyTree) -> PyTree:
    """The parameters of four lanes at three steps, leaves `(lanes, steps, *leaf)`.

    Two lanes stay at one point, each its own, and then move a little; one begins at the first of
    these and goes on at NaN; one begins at NaN.
    """
    other = jax.tree.map(jnp.add, params, directions(params, 1))
    near, far = (jax.tree.map(lambda x: (1.001 * x).astype(x.dtype), x) for x in (params, other))
    nan = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    points = (params, params, near, other, other, far, params, nan, nan, nan, nan, nan)
    return jax.tree.map(lambda *x: jnp.stack(x).reshape(4, 3, *x[0].shape), *points)


def _check_numbers(point: _Point) -> None:
    probe = point.probe
    run, lanes = eqx.filter_jit(_run), _sequences(point.params)
    try:
        found, again = (jax.tree.map(np.asarray, run(point, lanes)) for _ in range(2))
    except Exception as error:  # whatever the probe's own code raises
        _fail(probe, f"it fails in a scan under vmap ({_first_words(error)}).", error)
    for name, value in found.items():
        if not _same(value, again[name]):
            _fail(probe, f"two runs of one program measure another {name!r}; {_KEYS}")
    for name, value in found.items():
        if value.dtype.kind not in "fV":
            continue
        finite = np.isfinite(value.astype(np.float32)) & ~_flagged(found, name)
        lost = finite[:2, 0] & ~finite[:2, 1]
        if lost.any():
            _fail(
                probe,
                f"{name!r} is {value[:2, 0][lost][0]} from a cold state and "
                f"{value[:2, 1][lost][0]} from the warm one at the same point; look at the state "
                "that `measure` returns.",
            )
        if all(_same(value[0], lane) for lane in value):  # it does not depend on the parameters
            continue
        wrong = np.concatenate([finite[2, 1:], finite[3]])
        if wrong.any():
            number = np.concatenate([value[2, 1:], value[3]])[wrong][0]
            _fail(
                probe,
                f"{name!r} is {number} where the parameters are NaN; measure NaN there, or a "
                f"boolean '{name}{_CONVERGED}' that is False.",
            )


def _flagged(found: dict[str, np.ndarray], name: str) -> Any:
    """True where a measurement `…_converged` disowns the number."""
    for other, value in found.items():
        prefix = other.removesuffix(_CONVERGED)
        if value.dtype == bool and prefix != other and f"{name}_".startswith(f"{prefix}_"):
            return ~value if value.shape == found[name].shape else ~value.any()
    return False
