"""Matrix metrics: Shampoo, SOAP and Muon, with one factor or rotation per axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import einsum, rearrange, reduce
from jaxtyping import Array, Float, Int, PyTree

from aeoskit.linalg import (
    AbstractPreconditioner,
    AxisFactor,
    BlockPreconditioner,
    KroneckerPreconditioner,
    RotatedDiagonalPreconditioner,
    multiply_along,
    restrict,
    symmetric_factor,
)

from ._diagonal import RMS, AbstractMoments, Correction, as_correction
from ._hyperparameters import (
    as_decay_rate,
    as_hyperparameter,
    as_length,
    cast_to,
    is_concrete,
    one_minus_power,
)
from ._preconditioner import (
    AbstractDirectionRule,
    AbstractParameterRule,
    AbstractPreconditionerRule,
)
from ._trees import Structure, static_structure, tree_of

Scalar = Float[Array, ""]
# For each leaf and each of its axes; None where an axis is not rotated.
Axes = tuple[tuple[Array | None, ...], ...]
Scale = Literal["width", "rms", "none"]
Matrices = str | Sequence[str] | Callable[[str], bool] | None
SCALES = ("width", "rms", "none")
# Coefficients of the published iteration `x (a + b x² + c x⁴)`: steep at zero, and about one at
# one.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
# The root mean square of an update of Adam (arXiv 2502.16982).
ADAM_RMS = 0.2


def axes_of(leaf: Any) -> tuple[int, ...]:
    """The lengths of a leaf's axes; a scalar counts as a vector of one entry."""
    return leaf.shape or (1,)


def statistics_dtype(dtype: Any) -> Any:
    """The dtype of a leaf, but float32 instead of 16 bits, which decompositions do not support."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype("float32")


def widened(leaf: Array) -> Array:
    """A gradient in the form of the statistics: no scalars, no 16-bit formats."""
    return leaf.reshape(axes_of(leaf)).astype(statistics_dtype(leaf.dtype))


def second_moment(gradient: Array, axis: int, full: bool) -> Array:
    """`G Gᵀ` of the gradient flattened into a matrix with that axis as rows, or its diagonal."""
    names = [f"x{i}" for i in range(gradient.ndim)]
    source = " ".join(names)
    if not full:
        return reduce(jnp.square(gradient), f"{source} -> {names[axis]}", "sum")
    other = " ".join([*names[:axis], "y", *names[axis + 1 :]])
    with jax.default_matmul_precision("highest"):
        return einsum(gradient, gradient, f"{source}, {other} -> {names[axis]} y")


class ShampooState(eqx.Module):
    """For each leaf the second moments along each axis: matrices, or diagonals for long axes."""

    statistics: tuple[tuple[Array, ...], ...]
    structure: Structure = eqx.field(static=True)


class Shampoo(AbstractPreconditionerRule):
    """Shampoo, one factor per axis: `P = (L + eps I)^{1/4} ⊗ (R + eps I)^{1/4}` on a matrix.

    `L` is the sum of `G Gᵀ` and `R` that of `Gᵀ G` over the steps or, given `beta2`, their moving
    averages. A leaf with k axes has k factors with the exponent `1 / (2k)`: 1/2 for a vector,
    which is Adagrad with a full matrix, and a scalar counts as a vector.

    Each step decomposes every factor again: `O(n³)` for an axis of length n.

    Source: Gupta, Koren, Singer, arXiv 1802.09568, Algorithms 1 and 2. Their ε is in the initial
    statistics; for sums that is equivalent.

    Args:
        beta2: the decay rate of the statistics, in [0, 1). None for sums, as published.
        eps: added to every factor's eigenvalues, above 0.
        exponent: that of each factor of P, above 0. None for `1 / (2k)`. A fixed number, not an
            array leaf.
        max_dimension: a longer axis has only the diagonal of its statistics.
        correction: with `beta2`, divides the averages by `1 - beta2^t`.

    Raises:
        TypeError: if a hyperparameter is not a real number, or `exponent` is traced.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = Shampoo(eps=1e-8)
        >>> state = rule.update(jnp.array([[4.0, 0.0]]), rule.init(jnp.zeros((1, 2))))
        >>> P = rule.operator(state, jnp.asarray(1), jnp.asarray(1.0))
        >>> P.inv_mv(jnp.array([[4.0, 0.0]])).tolist()
        [[1.000, 0.0]]
    """

    beta2: Scalar | None
    eps: Scalar
    exponent: float | None = eqx.field(static=True)
    max_dimension: int = eqx.field(static=True)
    correction: bool = eqx.field(static=True)

    def __init__(
        self,
        beta2: Any = None,
        eps: Any = 1e-4,
        exponent: float | int | None = None,
        max_dimension: int = 1024,
        correction: bool = False,
    ):
        self.beta2 = None if beta2 is None else as_decay_rate("beta2", beta2)
        self.eps = as_hyperparameter("eps", eps, above=0, fix="take a number such as 1e-4")
        if not is_concrete(exponent):
            raise TypeError(
                "exponent is traced, but it decides which program is compiled: pass a Python "
                "float, and sweep it as a group of runs."
            )
        if exponent is not None:
            as_hyperparameter("exponent", exponent, above=0, fix="take 0.25, or None")
        self.exponent = None if exponent is None else float(exponent)
        self.max_dimension = as_length("max_dimension", max_dimension, "take 1024")
        if correction and beta2 is None:
            raise ValueError(
                "correction=True divides moving averages by 1 - beta2**t, but without beta2 the "
                "statistics are sums: pass beta2, or leave correction out."
            )
        self.correction = correction

    def init(self, params: PyTree) -> ShampooState:
        structure = static_structure(params)

        def zeros(leaf: Any, size: int) -> Array:
            shape = (size, size) if self._full(size) else (size,)
            return jnp.zeros(shape, statistics_dtype(leaf.dtype))

        return ShampooState(
            tuple(tuple(zeros(leaf, n) for n in axes_of(leaf)) for leaf in structure[0]), structure
        )

    def update(self, grads: PyTree, state: ShampooState) -> ShampooState:
        def next_of(leaf: Array, before: tuple[Array, ...]) -> tuple[Array, ...]:
            leaf = widened(leaf)
            seen = [
                second_moment(leaf, axis, self._full(size)) for axis, size in enumerate(leaf.shape)
            ]
            if self.beta2 is None:
                return tuple(a + b for a, b in zip(before, seen, strict=True))
            return tuple(
                cast_to(self.beta2, b) * a + cast_to(1 - self.beta2, b) * b
                for a, b in zip(before, seen, strict=True)
            )

        leaves = jax.tree.leaves(grads)
        statistics = tuple(map(next_of, leaves, state.statistics))
        return ShampooState(statistics, state.structure)

    def operator(
        self, state: ShampooState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        del bias

        def factor(statistics: Array, exponent: float) -> AxisFactor:
            if self.correction and self.beta2 is not None:
                statistics = statistics / cast_to(one_minus_power(self.beta2, count), statistics)
            whole = AxisFactor(statistics) if statistics.ndim == 1 else symmetric_factor(statistics)
            eps = cast_to(self.eps, statistics)
            return AxisFactor(whole.values + eps, whole.vectors).power(exponent)

        factors = [
            tuple(factor(s, self.exponent or 1 / (2 * len(axes))) for s in axes)
            for axes in state.statistics
        ]
        _, treedef = state.structure
        return KroneckerPreconditioner(
            jax.tree.unflatten(treedef, factors), tree_of(state.structure), eps=0.0, check=False
        )

    def structure(self, state: ShampooState) -> PyTree[jax.ShapeDtypeStruct]:
        return tree_of(state.structure)

    def _full(self, size: int) -> bool:
        return size <= self.max_dimension


class SOAPState(eqx.Module):
    """Statistics and basis of each axis, second moments in that basis, the number of gradients."""

    statistics: Axes
    rotations: Axes
    moments: tuple[Array, ...]
    count: Int[Array, ""]
    structure: Structure = eqx.field(static=True)


class SOAP(AbstractMoments):
    """Adam in a rotated basis: `P V = Q_L (d * (Q_Lᵀ V Q_R)) Q_Rᵀ` on a matrix.

    `Q_L` and `Q_R` follow the eigenvectors of moving averages of `G Gᵀ` and `Gᵀ G`: every
    `frequency` steps by one orthogonal iteration, `Q = QR(L Q)`, on the statistics before the step.
    `d = √ν̂ + eps` from the second moments ν of the gradients in that basis. The basis of the first
    step is that of its own gradient.

    Where that gradient is of lower rank, the basis of its null space is arbitrary and may differ
    between programs: two runs of the same numbers may then differ by more than rounding.

    Source: Vyas et al., arXiv 2409.11321, Algorithm 3. The authors' code differs: it takes no
    step at the first gradient, keeps ν sorted by the eigenvalues, and has ε under the correction.

    Args:
        beta2: the decay rate of ν, in [0, 1).
        eps: added to the root, above 0.
        frequency: steps between two changes of the basis.
        shampoo_beta: the decay rate of the statistics, in [0, 1); None for `beta2`.
        max_dimension: a longer axis is not rotated.
        rotate_vectors: whether leaves of one axis are rotated; if not, they have Adam's P.
        correction: `"adam"`, `"first_moment"`, `"second_moment"` or `"none"`, as in `RMS`.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = SOAP()
        >>> state = rule.update(jnp.array([[3.0, 4.0]]), rule.init(jnp.zeros((1, 2))))
        >>> P = rule.operator(state, jnp.asarray(1), jnp.asarray(1.0))
        >>> P.inv_mv(jnp.array([[3.0, 4.0]])).tolist()
        [[0.60, 0.80]]
    """

    beta2: Scalar
    eps: Scalar
    shampoo_beta: Scalar | None
    frequency: int = eqx.field(static=True)
    max_dimension: int = eqx.field(static=True)
    rotate_vectors: bool = eqx.field(static=True)
    correction: str = eqx.field(static=True)

    def __init__(
        self,
        beta2: Any = 0.95,
        eps: Any = 1e-8,
        frequency: int = 10,
        shampoo_beta: Any = None,
        max_dimension: int = 10000,
        rotate_vectors: bool = False,
        correction: Correction | str = "adam",
    ):
        self.beta2 = as_decay_rate("beta2", beta2)
        self.eps = as_hyperparameter("eps", eps, above=0, fix="take a number such as 1e-8")
        self.shampoo_beta = (
            None if shampoo_beta is None else as_decay_rate("shampoo_beta", shampoo_beta)
        )
        self.frequency = as_length("frequency", frequency, "take 10")
        self.max_dimension = as_length("max_dimension", max_dimension, "take 10000")
        self.rotate_vectors = rotate_vectors
        self.correction = as_correction(correction)

    def init(self, params: PyTree) -> SOAPState:
        structure = static_structure(params)

        def for_axes(make: Any) -> Axes:
            return tuple(
                tuple(
                    make(n, n, dtype=statistics_dtype(leaf.dtype))
                    if self._rotated(leaf, n)
                    else None
                    for n in axes_of(leaf)
                )
                for leaf in structure[0]
            )

        return SOAPState(
            statistics=for_axes(lambda m, n, dtype: jnp.zeros((m, n), dtype)),
            rotations=for_axes(jnp.eye),
            moments=tuple(jnp.zeros_like(widened(p)) for p in jax.tree.leaves(params)),
            count=jnp.zeros((), jnp.int32),
            structure=structure,
        )

    def update(self, grads: PyTree, state: SOAPState) -> SOAPState:
        leaves = [widened(leaf) for leaf in jax.tree.leaves(grads)]
        beta = self.beta2 if self.shampoo_beta is None else self.shampoo_beta
        statistics = tuple(
            tuple(
                None
                if s is None
                else cast_to(beta, s) * s + cast_to(1 - beta, s) * second_moment(leaf, axis, True)
                for axis, s in enumerate(axes)
            )
            for leaf, axes in zip(leaves, state.statistics, strict=True)
        )
        # The basis of this step does not include its gradient, except for the first step.
        due = jnp.where(state.count == 0, 2, jnp.where(state.count % self.frequency == 0, 1, 0))
        rotations = jax.lax.switch(
            due,
            [
                lambda: state.rotations,
                lambda: jax.tree.map(_iterated, state.statistics, state.rotations),
                lambda: jax.tree.map(_eigenvectors, statistics),
            ],
        )
        moments = []
        for leaf, axes, nu in zip(leaves, rotations, state.moments, strict=True):
            for axis, rotation in enumerate(axes):
                if rotation is not None:
                    leaf = multiply_along(rotation, leaf, axis, transpose=True)
            moments.append(
                cast_to(self.beta2, nu) * nu + cast_to(1 - self.beta2, nu) * jnp.square(leaf)
            )
        return SOAPState(statistics, rotations, tuple(moments), state.count + 1, state.structure)

    def operator(
        self, state: SOAPState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        def diagonal(nu: Array, leaf: jax.ShapeDtypeStruct) -> Array:
            return self.root(self.debiased(nu, count), bias).reshape(leaf.shape)

        leaves, treedef = state.structure
        diagonals = [diagonal(nu, leaf) for nu, leaf in zip(state.moments, leaves, strict=True)]
        return RotatedDiagonalPreconditioner(
            jax.tree.unflatten(treedef, diagonals),
            jax.tree.unflatten(treedef, state.rotations),
            like=tree_of(state.structure),
            check=False,
        )

    def structure(self, state: SOAPState) -> PyTree[jax.ShapeDtypeStruct]:
        return tree_of(state.structure)

    def _rotated(self, leaf: Any, size: int) -> bool:
        return size <= self.max_dimension and (self.rotate_vectors or len(leaf.shape) > 1)


def _eigenvectors(matrix: Array) -> Array:
    # Largest first: orthogonal iteration keeps that order.
    return jnp.linalg.eigh(matrix)[1][:, ::-1]


def _iterated(matrix: Array, rotation: Array) -> Array:
    return jnp.linalg.qr(multiply_along(matrix, rotation, 0))[0]


class MuonState(eqx.Module):
    """The factor of each matrix's P, and the state of the rule for the other leaves."""

    factors: tuple[AxisFactor, ...]
    others: PyTree
    structure: Structure = eqx.field(static=True)
    matrices: tuple[bool, ...] = eqx.field(static=True)


class Muon(AbstractDirectionRule):
    """Muon's metric, `P = (M Mᵀ)^{1/2} ⊗ I` on matrices, from momentum's direction M.

    With the singular value decomposition `M = U S Vᵀ` the step `P⁻¹ M` is `U Vᵀ`. P acts on the
    smaller side, and has there the eigenvalues

    - `S + eps`, exactly orthogonal but for eps, with `newton_schulz=None`. Directions outside the
      range of M then cost almost nothing in the metric: where the Hessian has curvature along them,
      `λ₁(P⁻¹H)` is of the order of `1 / eps`.
    - `S / f(S)` with f the published iteration, `newton_schulz` times from `S / (‖M‖_F + eps)`:
      the step of the published code, `U f(S) Vᵀ`. They are at least `‖M‖_F / 3.4445^k`.

    divided by the scale of the update. Leaves that are not matrices have the P of `others`. One
    momentum rule serves all leaves, so that there is one threshold.

    With P held constant that threshold is exact. With P live it does not bound `λ₁(P⁻¹H)`, which
    goes far above it while training goes on: P forgets as fast as momentum does.

    Source: Jordan et al., *Muon: an optimizer for hidden layers in neural networks* (2024); the
    scale "rms" from Liu et al., arXiv 2502.16982. Each step costs one singular value
    decomposition per matrix.

    Args:
        newton_schulz: the number of iterations, 5 in the published code. None for the exact root.
        eps: as above, greater than 0.
        scale: the factor on an update. `"width"`: `max(1, n / m)^{1/2}` for a matrix of shape `(m,
            n)`, n outputs; `"rms"`: `0.2 max(m, n)^{1/2}`; `"none"`: 1.
        others: the rule for other leaves. None for `RMS()`, hence Adam's P.
        where: the matrices: a path such as "layers/*", paths, or a predicate on a path, as in
            `aeoskit.linalg.restrict`. None for all leaves with two axes.

    Raises:
        TypeError: if a hyperparameter is not a real number, or `others` needs the parameters.
        ValueError: if one is outside its range; from `init`, if `where` selects a leaf that is not
            a matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> rule, M = Muon(newton_schulz=None, scale="none"), jnp.array([[3.0, 4.0]])
        >>> state = rule.follow(M, M, rule.init(jnp.zeros((1, 2))))
        >>> P = rule.operator(state, jnp.asarray(1), jnp.asarray(1.0))
        >>> P.inv_mv(M).tolist()
        [[0.60, 0.80]]
    """

    eps: Scalar
    others: AbstractPreconditionerRule
    newton_schulz: int | None = eqx.field(static=True)
    scale: str = eqx.field(static=True)
    where: Any = eqx.field(static=True)

    def __init__(
        self,
        newton_schulz: int | None = 5,
        eps: Any = 1e-8,
        scale: Scale | str = "width",
        others: AbstractPreconditionerRule | None = None,
        where: Matrices = None,
    ):
        self.eps = as_hyperparameter("eps", eps, above=0, fix="take a number such as 1e-8")
        if newton_schulz is not None:
            newton_schulz = as_length("newton_schulz", newton_schulz, "take 5, or None")
        self.newton_schulz = newton_schulz
        if scale not in SCALES:
            raise ValueError(
                f'scale must be one of {", ".join(SCALES)}, got {scale!r}: take "width" for the '
                f"published one."
            )
        self.scale = scale
        if isinstance(others, AbstractParameterRule):
            raise TypeError(
                f"others is {type(others).__name__}, whose P depends on the parameters, which Muon "
                f"does not pass on: take RMS()."
            )
        self.others = RMS() if others is None else others
        # Hashable, as a static field must be.
        self.where = tuple(where) if isinstance(where, list) else where

    def init(self, params: PyTree) -> MuonState:
        structure = static_structure(params)
        matrices = self._matrices(structure)

        def one(leaf: Any) -> AxisFactor:
            size, dtype = min(leaf.shape), statistics_dtype(leaf.dtype)
            return AxisFactor(jnp.ones(size, dtype), jnp.eye(size, dtype=dtype))

        chosen = [x for x, is_matrix in zip(structure[0], matrices, strict=True) if is_matrix]
        others = self.others.init(_masked(params, matrices, False))
        return MuonState(tuple(map(one, chosen)), others, structure, matrices)

    def follow(self, grads: PyTree, direction: PyTree, state: MuonState) -> MuonState:
        factors = tuple(
            self._factor(widened(leaf))
            for leaf in jax.tree.leaves(_masked(direction, state.matrices, True))
        )
        others = self.others.update(_masked(grads, state.matrices, False), state.others)
        return MuonState(factors, others, state.structure, state.matrices)

    def operator(
        self, state: MuonState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        leaves, treedef = state.structure
        factors = iter(state.factors)

        def axes(leaf: Any) -> tuple[AxisFactor | None, AxisFactor | None]:
            factor = next(factors)
            return (factor, None) if leaf.shape[0] <= leaf.shape[1] else (None, factor)

        sides = [
            axes(leaf) if is_matrix else None
            for leaf, is_matrix in zip(leaves, state.matrices, strict=True)
        ]
        like = _masked(tree_of(state.structure), state.matrices, True)
        parts: list[AbstractPreconditioner] = [
            KroneckerPreconditioner(jax.tree.unflatten(treedef, sides), like, eps=0.0, check=False)
        ]
        if all(state.matrices):
            return parts[0]
        return BlockPreconditioner(parts=[*parts, self.others.operator(state.others, count, bias)])

    def structure(self, state: MuonState) -> PyTree[jax.ShapeDtypeStruct]:
        return tree_of(state.structure)

    def _factor(self, matrix: Array) -> AxisFactor:
        rows, columns = matrix.shape
        wide = matrix if rows <= columns else rearrange(matrix, "i j -> j i")
        # Not the eigenvalues of M Mᵀ, whose roots have only half the digits of small singular
        # values.
        vectors, singular, _ = jnp.linalg.svd(wide, full_matrices=False)
        eps = cast_to(self.eps, matrix)
        if self.newton_schulz is None:
            values = singular + eps
        else:
            norm = jnp.linalg.norm(singular) + eps
            a, b, c = NEWTON_SCHULZ
            x, gain = singular / norm, jnp.ones_like(singular)
            # The gain f(x) / x as a product of factors, none of which is 0 / 0 at x = 0.
            for _ in range(self.newton_schulz):
                factor = a + b * x**2 + c * x**4
                x, gain = x * factor, gain * factor
            values = norm / gain
        scale = {
            "width": max(1.0, columns / rows) ** 0.5,
            "rms": ADAM_RMS * max(rows, columns) ** 0.5,
            "none": 1.0,
        }[self.scale]
        return AxisFactor(values / scale, vectors)

    def _matrices(self, structure: Structure) -> tuple[bool, ...]:
        leaves, treedef = structure
        if self.where is None:
            return tuple(len(leaf.shape) == 2 for leaf in leaves)
        where = list(self.where) if isinstance(self.where, tuple) else self.where
        chosen = restrict(tree_of(structure), where)
        for path, leaf in jax.tree_util.tree_leaves_with_path(chosen):
            if len(leaf.shape) != 2:
                raise ValueError(
                    f"params{jax.tree_util.keystr(path)} has shape {leaf.shape}, but Muon takes "
                    f"matrices: leave it out of `where`, so that it has the P of `others`."
                )
        return tuple(leaf is not None for leaf in treedef.flatten_up_to(chosen))


def _masked(tree: PyTree, matrices: tuple[bool, ...], keep: bool) -> PyTree:
    leaves, treedef = jax.tree.flatten(tree)
    kept = [x if flag == keep else None for x, flag in zip(leaves, matrices, strict=True)]
    return jax.tree.unflatten(treedef, kept)
