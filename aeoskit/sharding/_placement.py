"""The placement of data, parameters, optimizer state and Krylov vectors on a mesh."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ._mesh import check_mesh
from ._spread import keep_axes, spread_spec

_REPLICATED = PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Placement:
    """The placement of everything on a mesh: pure configuration, hashable, without arrays.

    - **Data** are split along their examples over the data axes.
    - **Parameters**, and the optimizer state that is shaped like them, are `"replicated"`, or
      `"sharded"`: each leaf over all axes that divide its dimensions (as FSDP and ZeRO do), so that
      memory per device falls with the number of devices. They are gathered over the data axes for
      a gradient or a product; over other axes they stay split, and the compiler splits the model's
      own operations.
    - **Krylov vectors** of an eigen-solve are `"spread"` over all axes even where the parameters
      are replicated, since a basis is many times larger; or sharded as `"params"` are.
    - **A sweep**'s lanes are split over the sweep axis; none of the above is.

    Args:
        mesh: the mesh, with automatic axes.
        data_axis: the axis, or axes, over which the examples are split; `"data"` if None. `()`
            splits none, as None does on a mesh of `"model"` and the sweep axis alone.
        params: `"replicated"` or `"sharded"`.
        basis: `"spread"` or `"params"`.
        sweep_axis: the axis over which the lanes of a sweep are split; `"sweep"` if None and the
            mesh has it.
        check_vma: whether `jax.shard_map` checks what varies over devices. It is right in both
            modes, but a loss with loops of its own may not pass the check.

    Raises:
        TypeError: if the mesh is not one.
        ValueError: an axis that the mesh does not have or that is named twice, axes of other names
            of which none is for the examples, axes that are not automatic, or an unknown word.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.sharding import make_mesh
        >>> placement = Placement(make_mesh("data"), params="sharded")
        >>> placement.data_axes, placement.data_shards == len(jax.devices())
        (('data',), True)
        >>> params = placement.put_params({"w": jnp.ones((8 * placement.data_shards, 3))})
        >>> params["w"].addressable_shards[0].data.shape
        (8, 3)
    """

    mesh: Mesh
    data_axis: str | tuple[str, ...] | None = None
    params: Literal["replicated", "sharded"] | str = "replicated"
    basis: Literal["spread", "params"] | str = "spread"
    sweep_axis: str | None = None
    check_vma: bool = False

    def __post_init__(self):
        check_mesh(self.mesh)
        for name, words in (("params", ("replicated", "sharded")), ("basis", ("spread", "params"))):
            if getattr(self, name) not in words:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(words)}"
                )
        has = self.mesh.axis_names
        named = [*self.data_axes, *(() if self.sweep_axis is None else (self.sweep_axis,))]
        for axis in named:
            if axis not in has:
                raise ValueError(
                    f"the axis {axis!r} is not one of the mesh's, {', '.join(map(repr, has))}: "
                    "name one of these, or make the mesh with it"
                )
            if named.count(axis) > 1:
                raise ValueError(f"the axis {axis!r} is named twice: give it one task")
        others = [
            axis
            for axis, size in self.mesh.shape.items()
            if axis not in ("data", "model", self.sweep) and size > 1
        ]
        if self.data_axis is None and others and "data" not in has:
            raise ValueError(
                f"the mesh has the axes {', '.join(map(repr, has))} and none called 'data', so "
                "that every device would run through all examples: call the axis that splits them "
                f"'data', or in Python name it, Placement(mesh, data_axis={others[0]!r}), or pass "
                "data_axis=() to split none"
            )

    @property
    def data_axes(self) -> tuple[str, ...]:
        """The axes over which the examples are split."""
        if self.data_axis is None:
            return ("data",) if "data" in self.mesh.axis_names else ()
        return (self.data_axis,) if isinstance(self.data_axis, str) else tuple(self.data_axis)

    @property
    def data_shards(self) -> int:
        """The number of parts that the examples are split into."""
        return math.prod(self.mesh.shape[axis] for axis in self.data_axes)

    @property
    def sweep(self) -> str | None:
        """The axis over which lanes are split, or None."""
        if self.sweep_axis is None and "sweep" not in self.data_axes:
            return "sweep" if "sweep" in self.mesh.axis_names else None
        return self.sweep_axis

    # Specs of single arrays: functions of the shape alone.

    def _axes(self) -> dict[str, int]:
        return {name: size for name, size in self.mesh.shape.items() if name != self.sweep}

    def params_spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        """The spec of a parameter of this shape."""
        return _REPLICATED if self.params == "replicated" else spread_spec(shape, self._axes())

    def compute_spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        """The spec of a parameter in a computation: as stored, but gathered over the data axes."""
        others = tuple(name for name in self._axes() if name not in self.data_axes)
        return keep_axes(self.params_spec(shape), others, len(shape))

    def basis_spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        """The spec of a leaf of a Krylov vector."""
        return (
            spread_spec(shape, self._axes()) if self.basis == "spread" else self.params_spec(shape)
        )

    def sharding(self, spec: PartitionSpec = _REPLICATED) -> NamedSharding:
        """The sharding of a spec on this mesh; of the empty one, a copy on each device."""
        return NamedSharding(self.mesh, spec)

    @property
    def data_sharding(self) -> NamedSharding:
        """The sharding of data whose number of examples is divisible by `data_shards`."""
        return self.sharding(PartitionSpec(self.data_axes) if self.data_axes else _REPLICATED)

    # Trees.

    def put_data(self, data: PyTree) -> PyTree:
        """Shards data by example over the data axes.

        Args:
            data: leaves `(n, ...)`, n divisible by `data_shards`: of NumPy (each process reads the
                rows of its own devices only), of JAX, or shapes.

        Returns:
            The placed data.
        """
        return jax.tree.map(lambda leaf: put(leaf, self.data_sharding), data)

    def put_replicated(self, tree: PyTree) -> PyTree:
        """Replicates arrays: a copy on each device.

        Args:
            tree: arrays or shapes; what is neither stays as it is.

        Returns:
            The placed tree.
        """
        return jax.tree.map(lambda leaf: put(leaf, self.sharding()), tree)

    def put_params(self, params: PyTree) -> PyTree:
        """Replicates or shards parameters, as `params` of this placement asks.

        Args:
            params: arrays or shapes.

        Returns:
            The placed parameters.
        """
        return jax.tree.map(
            lambda leaf: put(leaf, self.sharding(self.params_spec(leaf.shape))), params
        )

    def put_state(self, tree: PyTree, params: PyTree, lanes: int | None = None) -> PyTree:
        """Places the state of an optimizer or a probe.

        A leaf of a parameter's shape is placed as that parameter is, a block of such leaves (the
        vectors of a warm start, `(rows, *shape)`) as Krylov vectors are; all else is replicated.

        Args:
            tree: arrays or shapes, typed keys included; what is neither stays as it is.
            params: the parameters, or their shapes, without a lane axis.
            lanes: the size of the leading axis of every array of a sweep's state, if it is one: it
                is split over the sweep axis where it divides. One number a lane is replicated.

        Returns:
            The placed tree.
        """
        shapes = {leaf.shape for leaf in jax.tree.leaves(params)}

        def place(leaf: Any) -> Any:
            if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
                return leaf
            shape = leaf.shape if lanes is None else leaf.shape[1:]
            if shape in shapes:
                spec = self.params_spec(shape)
            elif shape and shape[1:] in shapes:
                spec = PartitionSpec(None, *self.basis_spec(shape[1:]))
            else:
                spec = _REPLICATED
            if lanes is not None and shape:
                divides = self.sweep is not None and lanes % self.mesh.shape[self.sweep] == 0
                spec = PartitionSpec(self.sweep if divides else None, *spec)
            return put(leaf, self.sharding(spec))

        return jax.tree.map(place, tree)

    def basis_structure(self, structure: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
        """The structure of Krylov vectors: shapes and dtypes, with the sharding of each leaf.

        Args:
            structure: a vector or a structure.

        Returns:
            Its structure.
        """
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=self.sharding(self.basis_spec(x.shape))
            ),
            structure,
        )

    def for_compute(self, tree: PyTree) -> PyTree:
        """Parameters, or a vector like them, gathered over the data axes; inside jit.

        Args:
            tree: the parameters or vector.

        Returns:
            The same, gathered.
        """
        return jax.tree.map(lambda x: put(x, self.sharding(self.compute_spec(x.shape))), tree)


def as_placement(where: Placement | Mesh) -> Placement:
    """A placement; of a mesh, the default one.

    Args:
        where: a placement or a mesh.

    Returns:
        The placement.

    Raises:
        TypeError: if it is neither.
        ValueError: if the mesh has axes that are not automatic.

    Example:
        >>> from aeoskit.sharding import make_mesh
        >>> as_placement(make_mesh("data")).params
        'replicated'
    """
    return where if isinstance(where, Placement) else Placement(where)


def put(leaf: Any, sharding: NamedSharding) -> Any:
    """Places an array, or a shape; inside jit, as a sharding constraint.

    Args:
        leaf: an array of JAX or NumPy, a `jax.ShapeDtypeStruct`, or anything else, left alone.
        sharding: the sharding to have.

    Returns:
        The placed leaf.

    Example:
        >>> from aeoskit.sharding import make_mesh
        >>> put(np.ones(3), Placement(make_mesh("data")).sharding()).shape
        (3,)
    """
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    if isinstance(leaf, Tracer):
        return jax.lax.with_sharding_constraint(leaf, sharding)
    if isinstance(leaf, jax.Array) and not sharding.is_fully_addressable:
        return _put_global(leaf, sharding)
    if isinstance(leaf, np.ndarray):
        # A process reads what its own devices hold: the others' rows may not be there at all.
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.make_array_from_callback(
            leaf.shape, sharding, lambda index: np.asarray(leaf[index], dtype)
        )
    return jax.device_put(leaf, sharding) if isinstance(leaf, jax.Array) else leaf


def _put_global(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """Places an array on devices of several processes; `device_put` refuses some of these."""
    if not leaf.is_fully_addressable:
        same = leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        return leaf if same else jax.jit(_identity, out_shardings=sharding)(leaf)
    # One process's own, which all of them have alike.
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        words = put(np.asarray(jax.random.key_data(leaf)), sharding)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    return put(np.asarray(leaf), sharding)


def _identity(leaf: jax.Array) -> jax.Array:
    return leaf


def place_like(tree: PyTree, structure: PyTree, rows: bool = False) -> PyTree:
    """Places arrays as the structure of an operator's vectors does, where that has shardings.

    Args:
        tree: a vector, or a block of vectors `(rows, *leaf)`.
        structure: `jax.ShapeDtypeStruct`s, those with a sharding of a mesh to be followed; others,
            and arrays, ask for nothing.
        rows: whether the tree is a block.

    Returns:
        The same arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> place_like(jnp.ones(2), jax.ShapeDtypeStruct((2,), jnp.float32)).tolist()
        [1.0, 1.0]
    """

    def place(x: Any, like: Any) -> Any:
        wanted = like.sharding if isinstance(like, jax.ShapeDtypeStruct) else None
        if not isinstance(wanted, NamedSharding) or not isinstance(wanted.mesh, Mesh):
            return x
        spec = PartitionSpec(None, *wanted.spec) if rows else wanted.spec
        return jax.lax.with_sharding_constraint(x, NamedSharding(wanted.mesh, spec))

    return jax.tree.map(place, tree, structure)
