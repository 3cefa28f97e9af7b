"""The elementary updates of an optax transformation, in order.

Optax keeps hyperparameters in closures: only the update function of `optax.adam(1e-3)` has its
`b1`. So they are read there, by the name of the function's factory and the names of its variables.
Nothing of optax is imported.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from aeoskit._paths import check_like

from ..._optimizer import Optimizer
from ...rules._hyperparameters import cast_to, is_concrete, one_minus_power

# An aeoskit optimizer inside of an optax chain.
AEOSKIT = "aeoskit"


class Part(NamedTuple):
    """One elementary update, and its effect in the coming step.

    Args:
        name: Its factory, such as `"scale_by_adam"`.
        options: The factory's variables.
        before: Its state before the step.
        after: Its state after the step; the same as before if no gradients were given.
        incoming: Its incoming updates; None without gradients.
        params: The parameters; None if they were not given.
        embed: Maps a tree over the leaves that it acts on, and one over all leaves, to one over all
            leaves with the former's entries where it has any.
        on: For each leaf, whether it acts on it; None for all of them.
    """

    name: str
    options: dict[str, Any]
    before: Any
    after: Any
    incoming: PyTree | None
    params: PyTree | None
    embed: Callable[[PyTree, PyTree], PyTree]
    on: tuple[bool, ...] | None


class _ChainState(NamedTuple):
    """The updates in a chain, their place in the whole tree, and the parts found so far."""

    updates: PyTree | None
    params: PyTree | None
    embed: Callable[[PyTree, PyTree], PyTree]
    restrict: Callable[[PyTree], PyTree]
    on: tuple[bool, ...] | None
    whole: PyTree | None
    known: Mapping[str, Any]
    parts: list[Part]


def factory_of(update: Callable) -> str:
    """The name of the function in which an update function was defined."""
    return getattr(update, "__qualname__", type(update).__name__).split(".")[0]


def variables_of(update: Callable) -> dict[str, Any]:
    """The variables of the factory that an update function, or a function inside it, uses."""
    found: dict[str, Any] = {}
    waiting, seen = [update], set()
    while waiting:
        function = waiting.pop(0)
        if not inspect.isfunction(function) or id(function) in seen:
            continue
        seen.add(id(function))
        own = inspect.getclosurevars(function).nonlocals
        found = {**own, **found}
        # Functions of the same factory: Novograd's eps is in one of them.
        waiting += [
            f
            for f in own.values()
            if inspect.isfunction(f)
            and f.__module__ == update.__module__
            and factory_of(f) == factory_of(update)
        ]
    return found


def parts_of(
    transform: Any,
    state: Any,
    known: Mapping[str, Any],
    grads: PyTree | None = None,
    params: PyTree | None = None,
) -> list[Part]:
    """The elementary updates of a transformation in order, with wrappers opened.

    With gradients each of them takes its coming step, by its own function, up to the first unknown
    one.

    Args:
        transform: An optax transformation, or anything with `init` and `update` of that kind.
        state: Its state.
        known: By name, the parts that may be called, with the arguments that each `needs`.
        grads: The gradients at the present parameters.
        params: The present parameters.

    Returns:
        The parts.
    """
    whole = params if grads is None else grads
    run = _ChainState(
        grads, params, lambda tree, _: tree, lambda tree: tree, None, whole, known, []
    )
    _check_state(transform, state, whole)
    try:
        _walk(transform.update, state, run)
    except (AttributeError, KeyError) as error:
        raise ValueError(
            f"the bridge cannot read this transformation with this state ({error}): the state "
            "belongs to another one, or this version of optax is unknown."
        ) from error
    return run.parts


def _check_state(transform: Any, state: Any, whole: PyTree | None) -> None:
    """Raise a `ValueError` for the state of another transformation, or of other parameters."""
    if whole is None:
        return
    wanted = jax.eval_shape(transform.init, whole)
    fix = "pass the state that this transformation's init made for these parameters"
    check_like("state", state, wanted, ("a new state of it", "has", "have"), fix)


def _walk(update: Callable, state: Any, run: _ChainState) -> tuple[PyTree | None, Any]:
    """Open one update function, and return its outgoing updates and its next state."""
    bound = getattr(update, "__self__", None)
    if bound is not None and factory_of(update) == "MultiSteps":
        return _accumulated(bound, state, run)
    if isinstance(bound, Optimizer):
        return _elementary(update, AEOSKIT, {"optimizer": bound}, state, run)
    update = inspect.unwrap(update)
    name, options = factory_of(update), variables_of(update)
    if isinstance(options.get("optimizer"), Optimizer) and name == "as_optax":
        return _elementary(update, AEOSKIT, options, state, run)
    if not getattr(update, "__module__", "").startswith("optax."):
        # A user's function with one of optax's names: it is not optax's.
        name = f"{update.__module__}.{name}"
    wrapper = _WRAPPERS.get(name)
    if wrapper is not None:
        return wrapper(options, state, run)
    return _elementary(update, name, options, state, run)


def _elementary(
    update: Callable, name: str, options: dict[str, Any], state: Any, run: _ChainState
) -> tuple[PyTree | None, Any]:
    updates, after = None, state
    # Zero decay does nothing and needs no parameters: AdaDelta begins with it.
    rate = options.get("weight_decay") if name == "add_decayed_weights" else None
    none = isinstance(rate, float | int) and rate == 0
    needs = run.known[name].needs if name in run.known else "value"
    able = needs == "" or (needs == "params" and run.params is not None)
    if none:
        updates = run.updates
    elif run.updates is not None and able:
        updates, after = update(run.updates, state, run.params)
    run.parts.append(Part(name, options, state, after, run.updates, run.params, run.embed, run.on))
    return updates, after


def _supported(options: dict[str, Any], state: Any, run: _ChainState):
    return _walk(options["tx"].update, state, run)


def _chain(options: dict[str, Any], state: Any, run: _ChainState):
    if not isinstance(state, tuple) or len(state) != len(options["update_fns"]):
        # Reported like any other state that does not fit.
        raise KeyError(f"a chain of {len(options['update_fns'])} has another state")
    states = []
    for update, inner in zip(options["update_fns"], state, strict=True):
        updates, after = _walk(update, inner, run)
        run = run._replace(updates=updates)
        states.append(after)
    return run.updates, tuple(states)


def _named_chain(options: dict[str, Any], state: Any, run: _ChainState):
    states = {}
    for name, transform in options["transforms"]:
        updates, states[name] = _walk(transform.update, state[name], run)
        run = run._replace(updates=updates)
    return run.updates, states


def _injected(options: dict[str, Any], state: Any, run: _ChainState):
    schedules = options.get("sched_hps", {})
    values = dict(state.hyperparams)
    for name, schedule in schedules.items():
        values[name] = schedule(state.hyperparams_states[name])
    inner = options["inner_factory"](**options.get("other_hps", {}), **values)
    return _walk(inner.update, state.inner_state, run)


def _finite(options: dict[str, Any], state: Any, run: _ChainState):
    return _walk(options["inner"].update, state.inner_state, run)


def _masked(options: dict[str, Any], state: Any, run: _ChainState):
    mask = options["mask"]
    return _under_mask(options["inner"], mask, options["mask_pytree"], state.inner_state, run)


def _under_mask(inner: Any, mask: Any, hide: Callable, state: Any, run: _ChainState):
    whole = _needed(run)
    if callable(mask):
        mask = mask(run.restrict(whole))

    def embed(tree: PyTree, whole: PyTree) -> PyTree:
        inside = jax.tree.map(lambda on, a, b: a if on else b, mask, tree, run.restrict(whole))
        return run.embed(inside, whole)

    def restrict(whole: PyTree) -> PyTree:
        return hide(run.restrict(whole), mask)

    on = embed(_filled(True, restrict(whole)), _filled(False, whole))
    inside = run._replace(
        updates=None if run.updates is None else hide(run.updates, mask),
        params=None if run.params is None else hide(run.params, mask),
        embed=embed,
        restrict=restrict,
        on=tuple(jax.tree.leaves(on)),
    )
    updates, after = _walk(inner.update, state, inside)
    if updates is not None and run.updates is not None:
        updates = jax.tree.map(lambda on, new, old: new if on else old, mask, updates, run.updates)
    return updates, after


def _partition(options: dict[str, Any], state: Any, run: _ChainState):
    labels = options["param_labels"]
    if callable(labels):
        labels = labels(run.restrict(_needed(run)))
    updates, states = run.updates, {}
    for label, transform in options["transforms"].items():
        mask = options["make_mask"](labels, label)
        here = run._replace(updates=updates)
        inner = state.inner_states[label]
        found, states[label] = _under_mask(transform, mask, _hide, inner.inner_state, here)
        updates = found if updates is not None else None
    return updates, states


def _needed(run: _ChainState) -> PyTree:
    if run.whole is None:
        raise ValueError(
            "the transformation treats groups of parameters separately, so that it needs "
            "their structure: pass `params=`."
        )
    return run.whole


def _filled(value: bool, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda _: value, tree)


def _hide(tree: PyTree, mask: PyTree) -> PyTree:
    # Optax's own node without leaves, in its states: whoever has such a state has imported optax.
    hidden = sys.modules["optax"].MaskedNode()
    return jax.tree.map(lambda on, x: x if on else hidden, mask, tree)


def _accumulated(steps: Any, state: Any, run: _ChainState):
    updates = run.updates
    if updates is not None:
        mean = getattr(steps, "_use_grad_mean", True)
        share = 1 / (state.mini_step + 1) if mean else jnp.ones(())
        updates = jax.tree.map(
            lambda g, acc: (acc + share * (g - acc) if mean else g + acc).astype(g.dtype),
            updates,
            state.acc_grads,
        )
    return _walk(steps.inner_opt.update, state.inner_opt_state, run._replace(updates=updates))


def _schedule_free(options: dict[str, Any], state: Any, run: _ChainState):
    found = _walk(options["base_optimizer"].update, state.base_optimizer_state, run)
    part = Part("schedule_free", options, state, state, None, run.params, run.embed, run.on)
    run.parts.append(part)
    return found


_WRAPPERS: dict[str, Callable[[dict[str, Any], Any, _ChainState], tuple[PyTree | None, Any]]] = {
    "with_extra_args_support": _supported,
    "chain": _chain,
    "named_chain": _named_chain,
    "inject_hyperparams": _injected,
    "apply_if_finite": _finite,
    "masked": _masked,
    "partition": _partition,
    "schedule_free": _schedule_free,
}


WORKAROUND = "aeoskit.flip_multiplier measures the stability of any update, whatever it is made of."


def tree_map(function: Callable[..., Array], *trees: PyTree) -> PyTree:
    """`jax.tree.map`, for functions of arrays."""
    return jax.tree.map(function, *trees)


def spread(scalar: Array, like: PyTree) -> PyTree:
    """A tree with the same number everywhere."""
    return tree_map(lambda x: jnp.broadcast_to(cast_to(scalar, x), x.shape), like)


def corrected(tree: PyTree, beta: Any, count: Array) -> PyTree:
    """An average from zero, divided by its weight after `count` steps."""
    share = one_minus_power(jnp.asarray(beta, dtype=float), count)
    return tree_map(lambda x: x / cast_to(share, x), tree)


def with_first_correction(part: Part, roots: PyTree) -> PyTree:
    """Adam's convention: the average is not corrected, P is."""
    if part.options.get("nesterov", False):
        return roots  # the rule corrects both of its terms
    share = one_minus_power(jnp.asarray(part.options["b1"], dtype=float), part.after.count)
    return tree_map(lambda x: x * cast_to(share, x), roots)


def incoming_of(part: Part) -> PyTree:
    """The incoming updates.

    Raises:
        ValueError: If there are none.
    """
    if part.incoming is None:
        raise ValueError(
            f"the metric of optax's {part.name} depends on the incoming updates: pass the "
            "gradients."
        )
    return part.incoming


def params_of(part: Part) -> PyTree:
    """The parameters.

    Raises:
        ValueError: If there are none.
    """
    if part.params is None:
        raise ValueError(
            f"the metric of optax's {part.name} depends on the parameters: pass `params=`."
        )
    return part.params


def stepped(part: Part) -> Any:
    """The state after the coming step, of a part whose step takes the parameters."""
    if part.incoming is not None:
        params_of(part)
    return part.after


def refused_where(bad: Array, metric: PyTree, says: str) -> PyTree:
    """The metric; NaN where there is none, and an error where that can be seen."""
    if not is_concrete(bad):
        return tree_map(lambda x: jnp.where(bad, jnp.nan, x), metric)
    if bool(bad):
        raise ValueError(f"{says}: {WORKAROUND}")
    return metric
