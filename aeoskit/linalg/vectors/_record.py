"""Plain records as pytrees: for numbers that the host makes anew after every product."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

_T = TypeVar("_T", bound=type)


@dataclass_transform(frozen_default=True)
def record(cls: _T) -> Any:
    """A frozen dataclass that is a pytree of its fields.

    An `eqx.Module` is one too, with checks that take ten times as long as the record itself.

    Args:
        cls: A class of annotated fields.

    Returns:
        The dataclass.

    Example:
        >>> @record
        ... class Pair:
        ...     first: int
        ...     second: int
        >>> jax.tree.leaves(Pair(1, 2))
        [1, 2]
    """
    made = dataclasses.dataclass(frozen=True)(cls)
    names = tuple(field.name for field in dataclasses.fields(made))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in names)

    def with_keys(value: Any) -> tuple[Any, None]:
        return [(key, getattr(value, name)) for key, name in zip(keys, names, strict=True)], None

    def flat(value: Any) -> tuple[Any, None]:
        return [getattr(value, name) for name in names], None

    def built(_: None, children: Any) -> Any:
        # Not by the constructor: JAX puts placeholders where numbers belong, and it checks types.
        value = object.__new__(made)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(value, name, child)
        return value

    jax.tree_util.register_pytree_with_keys(made, with_keys, built, flat)
    return made
