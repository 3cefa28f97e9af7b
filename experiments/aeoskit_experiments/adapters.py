"""Adapters from the values that users' own parts return to the objects of an experiment."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from aeoskit.optimizers import UpdateMap, as_optimizer
from aeoskit.probes import AbstractProbe
from aeoskit.trajectory import AnyOptimizer
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset, Dataset, PairDataset, TokenDataset
from aeoskit_experiments.models import Model
from aeoskit_experiments.options import loss_arguments, signature_of

_OPTIMIZER = (
    "an aeoskit optimizer, a transformation of optax, a minimiser of optimistix, or a pair "
    "(init, update_map) of functions `params -> state` and `(params, state, batch) -> (params, "
    "state)`"
)
_DATA = (
    "a Dataset, or a tuple (inputs, targets), or (inputs, targets, test_inputs, test_targets), of "
    "arrays"
)
_MODEL = (
    "an equinox module (made with a `key`, called with one example), a pair of functions "
    "(init, apply), or an object with both"
)


def adapt(stage: str, label: str, function: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """Call a user's own part and convert its value to the type that the stage needs.

    Args:
        stage: The stage: data, model, loss, optimizer or track.
        label: The part's name in messages.
        function: The part.
        settings: Its options.

    Returns:
        A data set, a `Model`, a loss, an optimizer or a probe.

    Raises:
        UserError: If it raises, or returns something else.
    """
    kinds: dict[str, Callable[..., Any]] = {
        "data": own_data,
        "model": own_model,
        "loss": own_loss,
        "optimizer": own_optimizer,
        "track": own_probe,
    }
    return kinds[stage](label, function, settings)


def own_data(label: str, function: Callable[..., Any], settings: Mapping[str, Any]) -> AnyDataset:
    """A data set from a function that returns one, or arrays.

    Args:
        label: The part's name in messages.
        function: Returns a `Dataset`, `TokenDataset` or `PairDataset`, or a tuple of arrays
            `(inputs, targets)`, followed by test rows, if any. Targets are classes (whole numbers,
            `(n,)`) or numbers to fit, `(n,)` or `(n, outputs)`.
        settings: Its options.

    Returns:
        The data set.

    Raises:
        UserError: If the value has another type.

    Example:
        >>> data = own_data("data own", lambda: (np.eye(3), np.array([0, 1, 1])), {})
        >>> data.targets.shape, data.num_classes
        ((3, 2), 2)
    """
    made = _called(label, function, settings)
    if isinstance(made, Dataset | TokenDataset | PairDataset):
        return made
    if not (isinstance(made, tuple | list) and len(made) in (2, 4)):
        raise UserError(f"{label} returned a {type(made).__name__}: return {_DATA}")
    inputs, image = _rows(f"{label}: inputs", made[0])
    targets = np.asarray(made[1])
    labels, targets, count = _targets(label, targets, len(inputs))
    test: list[Any] = [None, None]
    if len(made) == 4:
        test_inputs, _ = _rows(f"{label}: test inputs", made[2])
        if test_inputs.shape[1] != inputs.shape[1]:
            raise UserError(
                f"{label}: test inputs have {test_inputs.shape[1]} features, and inputs "
                f"{inputs.shape[1]}: give as many"
            )
        known = count if np.issubdtype(np.asarray(made[1]).dtype, np.integer) else None
        test_targets = _targets(label, np.asarray(made[3]), len(test_inputs), known)[1]
        if test_targets.shape[1] != count:
            raise UserError(
                f"{label}: test targets have {test_targets.shape[1]} columns, and targets {count}: "
                f"give both as classes, or both as numbers of one shape"
            )
        test = [jnp.asarray(test_inputs), jnp.asarray(test_targets)]
    return Dataset(
        jnp.asarray(inputs), jnp.asarray(labels), jnp.asarray(targets), count, image, *test
    )


def _rows(name: str, values: Any) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Inputs as rows of float32, and the shape of an image in them."""
    array = np.asarray(values)
    if array.ndim < 2 or not np.issubdtype(array.dtype, np.number) or not len(array):
        raise UserError(
            f"{name} are {array.dtype} of shape {array.shape}: give numbers, (n, features) or "
            f"(n, height, width, channels)"
        )
    if not np.isfinite(array).all():
        raise UserError(f"{name} are not all finite: remove NaN and infinity")
    shape = (*array.shape[1:], 1, 1)[:3] if array.ndim < 5 else (array[0].size, 1, 1)
    return array.reshape(len(array), -1).astype(np.float32), shape  # pyright: ignore


def _targets(
    label: str, targets: np.ndarray, rows: int, count: int | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """The labels, the targets, and the number of outputs that they require."""
    if len(targets) != rows:
        raise UserError(f"{label}: {rows} inputs have {len(targets)} targets: give one for each")
    if np.issubdtype(targets.dtype, np.integer) and targets.ndim == 1:
        found = int(targets.max()) + 1 if count is None else count
        if targets.min() < 0 or targets.max() >= found or found < 2:
            raise UserError(
                f"{label}: classes are from {targets.min()} to {targets.max()}: number them from "
                f"0, at least two of them, the same in the test rows"
            )
        return targets.astype(np.int32), np.eye(found, dtype=np.float32)[targets], found
    if not np.issubdtype(targets.dtype, np.floating) or targets.ndim > 2:
        raise UserError(
            f"{label}: targets are {targets.dtype} of shape {targets.shape}: give classes, whole "
            f"numbers (n,), or numbers to fit, (n,) or (n, outputs)"
        )
    if not np.isfinite(targets).all():
        raise UserError(f"{label}: targets are not all finite: remove NaN and infinity")
    columns = targets.reshape(rows, -1).astype(np.float32)
    return np.zeros(rows, np.int32), columns, columns.shape[1]


class Network(eqx.Module):
    """An equinox module as parameters: its arrays are leaves, the rest is structure.

    Args:
        arrays: The module with its floating-point arrays alone.
        rest: The module with everything else.
    """

    arrays: PyTree
    rest: PyTree = eqx.field(static=True)


def own_model(label: str, function: Callable[..., Any], settings: Mapping[str, Any]) -> Model:
    """A network from a class or function.

    Args:
        label: The part's name in messages.
        function: A class of equinox modules, or a function that returns one; or that returns a
            `Model`, a pair `(init, apply)` or an object with these. Parameters named `key` and
            `dataset` are filled with a PRNG key and the data.
        settings: Its options.

    Returns:
        The model.

    Raises:
        UserError: If the value has another type.

    Example:
        >>> def net(dataset, *, key):
        ...     return eqx.nn.Linear(dataset.inputs.shape[1], dataset.num_classes, key=key)
        >>> data = own_data("data own", lambda: (np.eye(3), np.array([0, 1, 1])), {})
        >>> model = own_model("model net", net, {})
        >>> model.apply(model.init(jax.random.key(0), data), data.inputs).shape
        (3, 2)
    """
    filled = tuple(name for name in ("key", "dataset") if name in signature_of(function).parameters)
    if filled:
        made_by = _Made(label, function, tuple(settings.items()), filled)
        return Model(made_by, _apply_module)
    made = _called(label, function, settings)
    if isinstance(made, Model):
        return made
    # A transformation of optax is a tuple of functions too, of its own type.
    if type(made) in (tuple, list) and len(made) == 2 and all(map(callable, made)):
        init, apply = cast(Any, made)
        _check_call(f"{label}: init", init, ("key", "dataset"))
        _check_call(f"{label}: apply", apply, ("params", "inputs"))
        return Model(init, apply)
    first: Any = getattr(made, "init", None)
    second: Any = getattr(made, "apply", None)
    if callable(first) and callable(second):
        couples = bool(getattr(made, "couples", False))
        return Model(first, second, couples)  # pyright: ignore[reportArgumentType]
    if isinstance(made, eqx.Module) and callable(made):
        # The module comes with its parameters: the seed changes nothing.
        return Model(lambda key, dataset: _as_params(label, made), _apply_module)
    raise UserError(f"{label} returned a {type(made).__name__}: return {_MODEL}")


class _Made(eqx.Module):
    """The initial parameters: those of the module built with a key and the data."""

    label: str = eqx.field(static=True)
    function: Callable[..., Any] = eqx.field(static=True)
    settings: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    filled: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray, dataset: AnyDataset) -> PyTree:
        given = {"key": key, "dataset": dataset}
        more = {name: given[name] for name in self.filled}
        made = _called(self.label, self.function, {**dict(self.settings), **more})
        if not (isinstance(made, eqx.Module) and callable(made)):
            raise UserError(f"{self.label} returned a {type(made).__name__}: return {_MODEL}")
        return _as_params(self.label, made)


def _as_params(label: str, module: eqx.Module) -> Network:
    arrays, rest = eqx.partition(module, eqx.is_inexact_array)
    if not jax.tree.leaves(arrays):
        raise UserError(f"{label} has no floating-point arrays: there is nothing to train")
    if any(eqx.is_array(leaf) for leaf in jax.tree.leaves(rest)):
        raise UserError(
            f"{label} holds arrays of whole numbers or bools, which are not trained: make them "
            f"where they are used"
        )
    return Network(arrays, rest)


def _apply_module(params: Network, inputs: PyTree) -> PyTree:
    module: Any = eqx.combine(params.arrays, params.rest)
    return jax.vmap(module)(inputs)


def own_loss(
    label: str, function: Callable[..., Any], settings: Mapping[str, Any]
) -> Callable[[Array, Any], Any]:
    """A loss of outputs and targets, from one or from a function that makes one.

    Args:
        label: The part's name in messages.
        function: `(outputs, targets, *, options) -> losses (n,)`, a pair (sum, weight) or a mean;
            or a function of options that returns such a loss.
        settings: Its options.

    Returns:
        The loss.

    Raises:
        UserError: If it returns something that cannot be called.

    Example:
        >>> huber = lambda outputs, targets, *, delta=1.0: delta * jnp.abs(outputs - targets)
        >>> float(own_loss("loss huber", huber, {"delta": 2.0})(jnp.array(1.0), 0.0))
        2.0
    """
    if loss_arguments(function):
        _check_call(label, function, ("outputs", "targets"), settings)
        return functools.partial(function, **settings) if settings else function
    _check_call(label, function, (), settings, fix="write a function of outputs and targets")
    made = _called(label, function, settings)
    if not callable(made):
        raise UserError(
            f"{label} returned a {type(made).__name__}: return a function of outputs and targets"
        )
    _check_call(f"{label}: the function that it returned", made, ("outputs", "targets"))
    return made


def own_optimizer(
    label: str, function: Callable[..., Any], settings: Mapping[str, Any]
) -> AnyOptimizer:
    """An optimizer: aeoskit's, optax's or optimistix's, or an update map.

    Args:
        label: The part's name in messages.
        function: Returns an aeoskit optimizer, an optax transformation or an optimistix minimiser;
            or a pair `(init, update_map)` of functions `params -> state` and
            `(params, state, batch) -> (params, state)`; the batch is `(inputs, targets)`, all of
            the data.
        settings: Its options.

    Returns:
        The optimizer.

    Raises:
        UserError: If the value has another type.

    Example:
        >>> import optax
        >>> type(own_optimizer("optimizer own", optax.sgd, {"learning_rate": 0.1})).__name__
        'OptaxOptimizer'
    """
    made = _called(label, function, settings)
    if type(made) is tuple and len(made) == 2 and all(map(callable, made)):
        _check_call(f"{label}: init", made[0], ("params",))
        _check_call(f"{label}: update_map", made[1], ("params", "state", "batch"))
        return UpdateMap(*made)
    try:
        return as_optimizer(made)
    except TypeError:
        raise UserError(f"{label} returned a {type(made).__name__}: return {_OPTIMIZER}") from None


def own_probe(
    label: str, function: Callable[..., Any], settings: Mapping[str, Any]
) -> AbstractProbe:
    """A probe from its class, or a function that makes one.

    Args:
        label: The part's name in messages.
        function: A subclass of `aeoskit.probes.AbstractProbe`, or a function that returns one.
        settings: Its options.

    Returns:
        The probe.

    Raises:
        UserError: If the value has another type.
    """
    made = _called(label, function, settings)
    if not isinstance(made, AbstractProbe):
        raise UserError(
            f"{label} returned a {type(made).__name__}: return an aeoskit.probes.AbstractProbe"
        )
    return made


def _check_call(
    what: str,
    function: Callable[..., Any],
    arguments: tuple[str, ...],
    options: Mapping[str, Any] = {},
    fix: str = "",
) -> None:
    """Raise a `UserError` if a function of the user's cannot be called with these arguments."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # one without a signature, in C
        return
    try:
        signature.bind(*arguments, **options)
    except TypeError:
        given = f", but it is called with ({', '.join(arguments)})" if arguments else ""
        fix = fix or "take these, and give any other parameter a default"
        raise UserError(f"{what} has the parameters {signature}{given}: {fix}") from None


def _called(label: str, function: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    try:
        return function(**settings)
    except UserError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        raise UserError(f"{label}: {type(error).__name__}: {message}") from error
