"""An optimizer's state, and whether it is that of the optimizer that is asked."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ._momentum import AbstractMomentum
from ._preconditioning import AbstractPreconditionerRule
from ._statistics import static_structure

MEND = "take `optimizer.init(params)` of this optimizer"
OURS = ("aeoskit.linalg", "aeoskit.optimizers")
REMEMBERED = 128
# Structures only: nothing here is an array, or belongs to a trace.
_MADE: dict[Any, tuple[PyTree, PyTree]] = {}


class OptimizerState(eqx.Module):
    """The number of steps taken, the momentum rule's state, and the preconditioner rule's.

    Args:
        count: steps taken.
        momentum: the state of the momentum rule: its buffer.
        preconditioner: the state of the preconditioner rule: for `RMS`, the second moments ν.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.optimizers import adam
        >>> state = adam(1e-3).init(jnp.zeros(2))
        >>> int(state.count), state.preconditioner.tolist()
        (0, [0.0, 0.0])
    """

    count: Int[Array, ""]
    momentum: PyTree
    preconditioner: PyTree


def check_kind(state: Any) -> None:
    """Refuses what is no state of ours.

    Raises:
        TypeError: saying what it is.
    """
    if not isinstance(state, OptimizerState):
        raise TypeError(
            f"the state is a {type(state).__name__} and not the OptimizerState of this optimizer: "
            "take `optimizer.init(params)`; a state of optax belongs to its own transformation, "
            "see `from_optax`."
        )


def own_structure(
    momentum: AbstractMomentum, preconditioner: AbstractPreconditionerRule, state: Any
) -> PyTree[jax.ShapeDtypeStruct]:
    """The structure of the parameters, out of a state that these two rules could have made.

    Shapes are compared, and no value: it costs microseconds, and nothing once compiled.

    Raises:
        TypeError: if it is no `OptimizerState`.
        ValueError: if it has other leaves or shapes than `init` gives, naming the leaf's path.
    """
    check_kind(state)
    held = state.preconditioner
    try:
        structure = preconditioner.structure(held)
    except (AttributeError, TypeError):  # Another rule's state is another class.
        structure = None
    # Nor are parameters a state or a metric of ours, which a rule may have mapped over.
    if structure is None or type(structure).__module__.startswith(OURS):
        raise ValueError(
            f"state.preconditioner is a {type(held).__name__}, which is not what "
            f"{type(preconditioner).__name__} keeps: {MEND}."
        )
    rules = (momentum, preconditioner)
    made = _made_by(rules, structure)
    for name, rule, expected in zip(("momentum", "preconditioner"), rules, made, strict=True):
        _check_made_by(f"state.{name}", type(rule).__name__, getattr(state, name), expected)
    return structure


def _made_by(
    rules: tuple[AbstractMomentum, AbstractPreconditionerRule], structure: PyTree
) -> tuple[PyTree, PyTree]:
    """The structures that `init` of the two gives: of shapes alone, and hence remembered."""
    key = (jax.tree.structure(rules), static_structure(structure))
    try:
        found = _MADE.get(key)
    except TypeError:  # A user's rule with a static field that has no hash.
        key, found = None, None
    if found is None:
        found = jax.eval_shape(lambda p: (rules[0].init(p), rules[1].init(p)), structure)
        if key is not None:
            if len(_MADE) >= REMEMBERED:
                _MADE.clear()
            _MADE[key] = found
    return found


def _check_made_by(name: str, rule: str, found: PyTree, made: PyTree) -> None:
    leaves, expected = jax.tree.leaves(found), jax.tree.leaves(made)
    same = [jnp.shape(leaf) for leaf in leaves] == [leaf.shape for leaf in expected]
    if same and jax.tree.structure(found) == jax.tree.structure(made):
        return
    got, want = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(of)}
        for of in (found, made)
    )
    for path, leaf in got.items():
        if path not in want:
            raise ValueError(f"{name}{path} is a leaf that {rule} does not keep: {MEND}.")
        if jnp.shape(leaf) != want[path].shape:
            raise ValueError(
                f"{name}{path} has shape {jnp.shape(leaf)}, but for the parameters of this state "
                f"{rule} keeps {want[path].shape} there: {MEND}."
            )
    for path in want:
        if path not in got:
            raise ValueError(f"{name} has no leaf {name}{path}, which {rule} keeps: {MEND}.")
    if type(found) is not type(made):
        raise ValueError(
            f"{name} is a {type(found).__name__}, but {rule} keeps a {type(made).__name__}: {MEND}."
        )
