"""The first path at which a tree is not like another."""

from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree


def check_like(
    name: str,
    tree: PyTree,
    structure: PyTree,
    who: tuple[str, str, str] = ("the state", "has", "have"),
    fix: str = "pass the structure that `init(params)` was given",
) -> None:
    """Raise a `ValueError` for a tree whose leaves differ from an owner's, such as those of `init`.

    Args:
        name: what the tree is called.
        tree: arrays or their structures.
        structure: those of the owner.
        who: the owner, with its verb in the singular and with "does not".
        fix: what to do.

    Raises:
        ValueError: with the first leaf's path.

    Example:
        >>> check_like("grads", {"a": np.ones(3)}, {"a": np.ones(2)})
        Traceback (most recent call last):
        ValueError: grads['a'] has shape (3,), but the state has (2,) there: pass the structure ...
    """
    pairs, wanted = (jax.tree_util.tree_leaves_with_path(x) for x in (tree, structure))
    same = jax.tree.structure(tree) == jax.tree.structure(structure)
    if same and all(_shape(x) == _shape(y) for (_, x), (_, y) in zip(pairs, wanted, strict=True)):
        return
    got, expected = ({jax.tree_util.keystr(p): _shape(x) for p, x in of} for of in (pairs, wanted))
    owner, has, have = who
    for path in expected:
        if path not in got:
            raise ValueError(f"{name} has no leaf {name}{path}, which {owner} {has}: {fix}.")
    for path, shape in got.items():
        if path not in expected:
            raise ValueError(f"{name}{path} is a leaf that {owner} does not {have}: {fix}.")
        if shape != expected[path]:
            raise ValueError(
                f"{name}{path} has shape {shape}, but {owner} {has} {expected[path]} there: {fix}."
            )
    kinds = containers(tree), containers(structure)
    how = f"other containers ({kinds[0]}, not {kinds[1]})"
    if kinds[0] == kinds[1]:
        how = f"the same containers ({kinds[0]}) with other static fields or another order"
    raise ValueError(f"{name} has the leaves that {owner} {has} in {how}: {fix}.")


def containers(tree: Any) -> str:
    """The types of a tree's containers, the outermost first, each named once.

    Example:
        >>> containers({"a": [1, (2, 3)]})
        'dict, list, tuple'
    """
    found: dict[str, None] = {}

    def note(node: Any) -> bool:
        if not jax.tree_util.all_leaves([node]):
            found.setdefault(type(node).__name__)
        return False

    jax.tree.leaves(tree, is_leaf=note)
    return ", ".join(found)


def _shape(leaf: Any) -> tuple[int, ...]:
    return leaf.shape if hasattr(leaf, "shape") else np.shape(leaf)
