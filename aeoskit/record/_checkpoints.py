"""Checkpoints: the array leaves of a carry, through orbax."""

import logging
import re
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

Carry = TypeVar("Carry")


def save_checkpoint(run: Path, branch: str, step: int, carry: Any) -> Path:
    """Saves the array leaves of a carry, typed PRNG keys included.

    Of several processes each calls it, and writes what its own devices hold.

    Args:
        run: the run's folder.
        branch: the branch's name.
        step: the step at which the carry stands.
        carry: any pytree.

    Returns:
        the checkpoint's folder, which appears whole or not at all.

    Raises:
        ValueError: if the branch's name cannot be a folder's, or the checkpoint is there.

    Example:
        >>> import tempfile
        >>> save_checkpoint(Path(tempfile.mkdtemp()), "main", 3, {"w": jnp.ones(2)}).name
        '3'
    """
    if not re.fullmatch(r"\w[\w.+-]*", branch):
        raise ValueError(
            f"the branch is {branch!r}, but it names a folder: use letters, digits, '.', '_', '+' "
            "and '-' only, and begin with a letter or digit."
        )
    path = (run / "checkpoints" / branch / str(step)).resolve()
    if path.exists():
        raise ValueError(f"the checkpoint {path} exists already: choose another step or branch.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _checkpointer() as checkpointer:
        checkpointer.save(path, _named(jax.tree.map(_data, _arrays(carry))))
    return path


def load_checkpoint(run: Any, branch: str, step: int | np.integer, like: Carry) -> Carry:
    """Loads a checkpoint into the shape of a carry, bit for bit.

    Args:
        run: a `Run` or the path of its folder.
        branch: the branch's name.
        step: the step at which it was saved.
        like: a carry of the same structure (its arrays, or `jax.ShapeDtypeStruct`s, give
            shapes, dtypes and shardings; whatever is not an array is taken from it).

    Returns:
        the carry.

    Raises:
        ValueError: if there is no such checkpoint (with the steps that there are), or if it does
            not fit `like`.

    Example:
        >>> import tempfile
        >>> from aeoskit.record import create_run
        >>> writer = create_run(tempfile.mkdtemp(), "try", pipeline={}, environment={})
        >>> _ = writer.checkpoint("main", 10, {"w": jnp.arange(3.0)})
        >>> load_checkpoint(writer.path, "main", 10, like={"w": jnp.zeros(3)})["w"].tolist()
        [0.0, 1.0, 2.0]
    """
    folder = Path(getattr(run, "path", run)) / "checkpoints"
    path = (folder / branch / str(step)).resolve()
    if not path.is_dir():
        # Others in there are saves that were cut off.
        found = [place for place in folder.glob("*/*") if place.name.isdigit()]
        available = sorted(f"{place.parent.name}/{place.name}" for place in found)
        raise ValueError(
            f"there is no checkpoint {branch}/{step} in {folder.parent}: "
            + (f"there are {', '.join(available)}." if available else "the run has none.")
        )
    arrays = _arrays(like)
    wanted = _named(jax.tree.map(lambda leaf: _abstract(_data(leaf)), arrays))
    with _checkpointer() as checkpointer:
        _check(path, checkpointer.metadata(path), wanted)
        restored = checkpointer.restore(path, wanted)
    leaves, structure = jtu.tree_flatten(arrays)
    loaded = [
        _restore(value, leaf)
        for value, leaf in zip((restored[key] for key in sorted(wanted)), leaves, strict=True)
    ]
    return eqx.combine(jtu.tree_unflatten(structure, loaded), like)


def _is_array(leaf: Any) -> bool:
    # Orbax refuses empty arrays, and there is nothing in them to save.
    kinds = jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct
    return isinstance(leaf, kinds) and leaf.size > 0


def _arrays(tree: Any) -> Any:
    return eqx.filter(tree, _is_array)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    # Keys are saved as their words, so that a checkpoint needs no key type to be read.
    if not _is_key(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.key_data(leaf)


def _restore(value: Any, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(value, impl=_impl(like))
    return np.asarray(value) if isinstance(like, np.ndarray | np.generic) else value


def _impl(key: Any) -> Any:
    # Through a trace, since a ShapeDtypeStruct knows its kind of key but `key_impl` refuses it.
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), key)
    return found[0]


def _abstract(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _named(tree: Any) -> dict[str, Any]:
    return {f"{place:06d}": leaf for place, leaf in enumerate(jtu.tree_leaves(tree))}


def _check(path: Path, metadata: Any, wanted: dict[str, Any]) -> None:
    saved = getattr(metadata, "item_metadata", metadata)
    saved = getattr(saved, "tree", saved)
    if set(saved) != set(wanted):
        raise ValueError(
            f"the checkpoint {path} has {len(saved)} arrays, but `like` has {len(wanted)}: build "
            "`like` with the model and optimizer that the run had."
        )
    for key, leaf in wanted.items():
        if tuple(saved[key].shape) != leaf.shape or saved[key].dtype != leaf.dtype:
            raise ValueError(
                f"array {int(key)} of the checkpoint {path} has shape {tuple(saved[key].shape)} "
                f"and dtype {saved[key].dtype}, but `like` has {leaf.shape} and {leaf.dtype}: "
                "build `like` with the model and optimizer that the run had."
            )


def _checkpointer() -> Any:
    # Orbax takes seconds to import and talks at every save, through the root's handlers.
    logging.getLogger("absl").setLevel(logging.ERROR)
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    return ocp.StandardCheckpointer()
