"""The mean loss over a data set."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from aeoskit.sharding import Placement, as_placement

from . import _fields
from ._abstract import AbstractObjective, Product, Reuse
from ._accumulate import num_examples, parts_of
from ._checks import check_arity, check_data, check_objective, check_params
from ._field_checks import check_hidden, check_product, has_symmetric_jacobian
from ._function import ModelLoss, StableFunction
from ._kinds import LossKind, loss_kind
from ._operators import GaussNewtonOperator, HessianOperator, Linearization, linearization
from ._shards import split_data, take


@eqx.filter_jit
def _value(objective: "Objective", params: PyTree) -> Any:
    return _fields.value(objective, params)


@eqx.filter_jit
def _value_and_gradient(objective: "Objective", params: PyTree) -> Any:
    return _fields.value_and_gradient(objective, params)


def _as_loss(loss: Any) -> "StableFunction | ModelLoss":
    check_arity(loss)
    return loss if isinstance(loss, StableFunction | ModelLoss) else StableFunction(loss, "loss")


class Objective(AbstractObjective):
    """The weighted mean `L(w)` of a loss over all of a data set, and its curvature.

    A loss maps `(params, batch)` to one of three shapes, recognized when it is traced: per-example
    losses `(n,)`; a pair of scalars `(sum, weight)`, as for masked tokens; a scalar mean over the
    batch. With `microbatch=m` at most `m` examples are looked at at a time: the mean stays exact,
    an uneven end and uneven weights included, and the memory of a Hessian product does not grow
    with the number of examples.

    The objective is a pytree whose leaves are its data (and the arrays of a loss that is a
    module), so it passes through `jax.jit` as an argument. It is never retraced for the same loss
    function and the same shapes; a fresh lambda is another function.

    Args:
        loss: `(params, batch) -> (n,) | (sum, weight) | mean`: a function, or an `eqx.Module`.
        data: pytree of arrays with a common leading axis of length `n`, the examples.
        microbatch: examples per microbatch; None evaluates the whole data at once.
        reuse: what `lineax.linearise` does to a curvature operator. `"linearize"` runs the primal
            pass once per solve and keeps its residuals, `"recompute"` runs it in every product,
            `"auto"` keeps them if they fit into `residual_budget`.
        residual_budget: bytes that the residuals of all microbatches may take under `"auto"` (under
            `jax.vmap`, those of each lane).
        params: if given, `check(params)` is run at construction.
        placement: the placement of the data, a `Placement` or a mesh: see `place`.
        product: how a Hessian product is made. `"forward"`: by a forward derivative of the
            gradient. `"reverse"`: by one in reverse, for a loss without a forward derivative
            (`custom_vjp`). `"difference"`: by a central difference of two gradients, for a loss
            without any second derivative (callbacks, attention kernels), and for a field that is
            not the gradient of its loss (`stop_gradient`), whose Jacobian no derivative sees.
        symmetric: whether that Jacobian is symmetric; None: that of `"forward"` is, that of the
            others if with `params` the field is found to be the gradient of the loss, or `<u, J v>`
            and `<v, J u>` to agree for random u and v; without `params` it is not.

    Raises:
        TypeError: if the loss cannot be called or hashed, or the data are not arrays.
        ValueError: if the data are empty, their leading axes disagree, `microbatch` is not between
            1 and n, or `reuse` is unknown; with `params`, everything that `check` finds.

    Example:
        >>> import jax.numpy as jnp
        >>> def loss(w, batch):
        ...     x, y = batch
        ...     return 0.5 * (x @ w - y) ** 2
        >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
        >>> w = jnp.array([1.0, -1.0])
        >>> objective = Objective(loss, (x, jnp.ones(3)), microbatch=2, params=w)
        >>> objective.n, round(float(objective.value(w)), 5)
        (3, 1.66667)
        >>> objective.hessian(w).as_matrix() * 3
        Array([[2., 1.],
               [1., 5.]], dtype=float32)
    """

    loss: StableFunction | ModelLoss
    data: PyTree
    microbatch: int | None = eqx.field(static=True)
    reuse: Reuse = eqx.field(static=True)
    residual_budget: int = eqx.field(static=True)
    tail: PyTree | None
    placement: Placement | None = eqx.field(static=True)
    product: Product = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True)

    def __init__(
        self,
        loss: Callable[..., Any],
        data: PyTree,
        *,
        microbatch: int | None = None,
        reuse: Reuse = "auto",
        residual_budget: int = 2**30,
        params: PyTree | None = None,
        placement: Placement | Mesh | None = None,
        product: Product = "forward",
        symmetric: bool | None = None,
    ):
        self.loss = _as_loss(loss)
        self.placement = None if placement is None else as_placement(placement)
        self.data, self.tail = check_data(data, convert=self.placement is None), None
        n = num_examples(self.data)
        if microbatch is not None and not 1 <= microbatch <= n:
            raise ValueError(
                f"microbatch is {microbatch}: it must be between 1 and the {n} examples of the data"
            )
        if reuse not in get_args(Reuse):
            raise ValueError(f"reuse is {reuse!r}: it must be one of {', '.join(get_args(Reuse))}")
        if product not in get_args(Product):
            raise ValueError(
                f"product is {product!r}: it must be one of {', '.join(get_args(Product))}"
            )
        if residual_budget < 0:
            raise ValueError(f"residual_budget is {residual_budget}: it must be at least 0 bytes")
        self.microbatch = None if microbatch == n else microbatch
        self.reuse = reuse
        self.residual_budget = residual_budget
        self.product = product
        self.symmetric = product == "forward" if symmetric is None else symmetric
        if self.placement is not None:
            self.data, self.tail = split_data(self.data, self.placement)
        if params is None:
            return
        params = check_params(params)
        self.check(params)
        if symmetric is None and product != "forward":
            self.symmetric = has_symmetric_jacobian(self, params)

    @staticmethod
    def from_model(
        model: Callable[..., Any],
        output_loss: Callable[..., Any],
        data: PyTree,
        *,
        microbatch: int | None = None,
        reuse: Reuse = "auto",
        residual_budget: int = 2**30,
        params: PyTree | None = None,
        placement: Placement | Mesh | None = None,
        product: Product = "forward",
        symmetric: bool | None = None,
    ) -> "Objective":
        """The mean of `output_loss(model(params, inputs), targets)`: it has a Gauss-Newton matrix.

        Args:
            model: `(params, inputs) -> outputs`, leaves `(n, ...)`.
            output_loss: `(outputs, targets) -> (n,) | (sum, weight) | mean`.
            data: a pair `(inputs, targets)`.
            microbatch: as for `Objective`.
            reuse: as for `Objective`.
            residual_budget: as for `Objective`.
            params: as for `Objective`.
            placement: as for `Objective`.
            product: as for `Objective`.
            symmetric: as for `Objective`.

        Returns:
            The objective.

        Raises:
            ValueError: as for `Objective`, and if `data` is not a pair.

        Example:
            >>> import jax.numpy as jnp
            >>> model = lambda w, x: x * w
            >>> square = lambda f, y: 0.5 * (f - y) ** 2
            >>> objective = Objective.from_model(model, square, (jnp.arange(3.0), jnp.ones(3)))
            >>> objective.gauss_newton(jnp.array(1.0)).as_matrix()
            Array([[1.6666666]], dtype=float32)
        """
        if not (isinstance(data, tuple | list) and len(data) == 2):
            raise ValueError(
                f"data is {type(data).__name__}: from_model needs a pair (inputs, targets)"
            )
        loss = ModelLoss(StableFunction(model, "model"), StableFunction(output_loss, "output_loss"))
        return Objective(
            loss,
            tuple(data),
            microbatch=microbatch,
            reuse=reuse,
            residual_budget=residual_budget,
            params=params,
            placement=placement,
            product=product,
            symmetric=symmetric,
        )

    @property
    def n(self) -> int:
        """The number of examples."""
        return num_examples(self.data) + (0 if self.tail is None else num_examples(self.tail))

    def place(self, where: Placement | Mesh) -> "Objective":
        """The same objective with its examples split over the devices of a mesh.

        Each device runs through its own examples, at most `microbatch` at a time, and the sums are
        added once for each value, gradient or product. The mean stays exact where the number of
        examples does not divide: the first devices take one of those left over each. A loss that
        returns a scalar mean is evaluated as one program over all of the data, batch statistics
        included, if there are no microbatches; its data have to divide.

        Args:
            where: a placement, or a mesh (its axis `data` is then that of the examples).

        Returns:
            The placed objective. Its operators take vectors of any sharding and place them.

        Raises:
            TypeError: if it is neither.
            ValueError: if the mesh has axes that are not automatic.

        Example:
            >>> import jax.numpy as jnp
            >>> from aeoskit.sharding import make_mesh
            >>> objective = Objective(lambda w, x: (x - w) ** 2, jnp.arange(5.0))
            >>> objective.place(make_mesh("data=2")).value(jnp.array(0.0))
            Array(6., dtype=float32)
        """
        return self._with(self._examples(), self.microbatch, where)

    def _with(
        self, data: PyTree, microbatch: int | None, placement: Placement | Mesh | None
    ) -> "Objective":
        """The same mean loss over other data, or placed otherwise."""
        return Objective(
            self.loss,
            data,
            microbatch=microbatch,
            reuse=self.reuse,
            residual_budget=self.residual_budget,
            placement=placement,
            product=self.product,
            symmetric=self.symmetric,
        )

    def _examples(self) -> PyTree:
        """All of the data, in order."""
        if self.tail is None:
            return self.data
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), self.data, self.tail)

    def kind(self, params: PyTree) -> LossKind:
        """The shape that the loss has, of three; nothing is computed.

        Args:
            params: the parameters, or their shapes.

        Returns:
            `"per_example"`, `"weighted"` or `"mean"`.

        Raises:
            ValueError: if the loss has another shape, or is not real and floating.
        """
        kind: LossKind = "mean"
        for length in self._lengths():
            shapes = jax.tree.map(
                lambda x, m=length: jax.ShapeDtypeStruct((m, *x.shape[1:]), x.dtype), self.data
            )
            kind = loss_kind(jax.eval_shape(self.loss, params, shapes), length)
        return kind

    def _lengths(self) -> list[int]:
        """The numbers of examples that the loss is given at a time."""
        n, shards = num_examples(self.data), 1
        if self.placement is not None:
            shards = self.placement.data_shards
        if not n:
            return [1]
        whole = self.placement is None or (self.microbatch is None and self.tail is None)
        rows = n if whole else n // shards
        size, _, rest = parts_of(
            rows, None if self.microbatch is None else min(self.microbatch, rows)
        )
        return [1] * (self.tail is not None) + [rest] * (rest > 0) + [size]

    def check(self, params: PyTree) -> None:
        """Checks on real numbers that this is a mean loss at all; once, before any work.

        Costs a gradient and a value over all of the data; a dozen of values and, of a scalar mean,
        three gradients of two microbatches; and a product and eleven gradients of at most 32
        examples (of a microbatch, where the loss takes no fewer).

        Args:
            params: parameters at which the loss is evaluated. Traced ones have no values, and only
                shapes are checked.

        Raises:
            TypeError: if a leaf of the parameters is not a floating array.
            ValueError: if the data, the loss or its gradient are not finite, the loss has the wrong
                shape, two evaluations differ (random numbers), the whole is not the weighted
                mean of the microbatches (batch statistics, a masked mean), the gradient has no
                derivative of the kind that `product` names, or that is another one than
                differences of gradients are (`stop_gradient`).
        """
        params = check_params(params)
        self.kind(params)
        check_objective(self, params)
        check_product(self, params)

    def value(self, params: PyTree) -> Float[Array, ""]:
        """The mean loss `L(w)`.

        Args:
            params: the parameters `w`.

        Returns:
            A scalar, in at least single precision.
        """
        return _value(self, params)

    def gradient(self, params: PyTree) -> PyTree:
        """The gradient `∇L(w)`, with the structure of `params`.

        Args:
            params: the parameters `w`.

        Returns:
            The gradient.
        """
        return self.value_and_gradient(params)[1]

    def value_and_gradient(self, params: PyTree) -> tuple[Float[Array, ""], PyTree]:
        """The mean loss and its gradient, in one pass.

        Args:
            params: the parameters `w`.

        Returns:
            The pair `(L(w), ∇L(w))`.
        """
        params = check_params(params)
        return _value_and_gradient(self, params)

    def on_batch(self, indices: Int[Array, " batch"]) -> "Objective":
        """The same mean loss over some of the examples: a minibatch. It can be used inside `jit`.

        Args:
            indices: which examples, `(batch,)`; repeated ones count repeatedly.

        Returns:
            An objective over these examples, split over devices if this one's are. Microbatches are
            kept where they are smaller than the batch. Values are not checked again.

        Example:
            >>> import jax.numpy as jnp
            >>> objective = Objective(lambda w, x: (x - w) ** 2, jnp.arange(4.0))
            >>> objective.on_batch(jnp.array([0, 2])).value(jnp.array(0.0))
            Array(2., dtype=float32)
        """
        (size,) = indices.shape
        data = take(self.data, self.tail, indices)
        fits = self.microbatch is not None and self.microbatch < size
        return self._with(data, self.microbatch if fits else None, self.placement)

    def hessian(self, params: PyTree) -> HessianOperator:
        """The Hessian of the mean loss at `params`, as a symmetric lineax operator.

        Where the loss has something in it that may hide a part of its derivative (`stop_gradient`,
        custom derivatives), products are compared with differences, once for a loss and shapes, as
        in `check`. Under `jit`, `vmap` or `scan` there are no values to compare, and what is hidden
        passes without a word: give `params=` to the objective, or call `check(params)`, before.

        Args:
            params: the parameters `w`.

        Returns:
            The operator `v -> ∇²L(w) v`; a product costs two to three gradients. With
            `symmetric=False` it is the Jacobian of the field that trains, not symmetric.

        Raises:
            ValueError: if products are not what differences of gradients are.
        """
        params = check_params(params)
        check_hidden(self, params)
        return HessianOperator(self, params)

    def linearize(self, params: PyTree) -> Linearization:
        """Loss, gradient and Hessian at one point, from one pass: for a step that also measures.

        A measurement then costs its products and about 0.7 gradients. Where nothing can be reused
        (`reuse="recompute"`, `product="difference"`) it costs what it costs without.

        Args:
            params: the parameters `w`.

        Returns:
            `value`, `grads` and `hessian`: what `sharpness` and `preconditioned_sharpness` take as
            `linearization`.

        Raises:
            ValueError: as for `hessian`.

        Example:
            >>> import jax.numpy as jnp
            >>> objective = Objective(lambda w, x: (x - w) ** 2, jnp.arange(4.0))
            >>> point = objective.linearize(jnp.array(0.0))
            >>> float(point.value), float(point.grads), float(point.hessian.mv(jnp.array(1.0)))
            (3.5, -3.0, 2.0)
        """
        params = check_params(params)
        check_hidden(self, params)
        point = linearization(self, params)
        # The very arrays, not what a program returns for them: whose it is can be seen at once.
        hessian = dataclasses.replace(point.hessian, objective=self, params=params)
        return dataclasses.replace(point, hessian=hessian)

    def gauss_newton(self, params: PyTree) -> GaussNewtonOperator:
        """The (generalized) Gauss-Newton matrix `JᵀHJ` at `params`.

        `J` is the Jacobian of the model's outputs and `H` the Hessian of the output loss.

        Args:
            params: the parameters `w`.

        Returns:
            The operator, tagged positive semidefinite: it is for an output loss that is convex in
            the outputs, as squared error and cross-entropy are.

        Raises:
            TypeError: if the objective was not made by `Objective.from_model`.
        """
        if not isinstance(self.loss, ModelLoss):
            raise TypeError(
                "a Gauss-Newton matrix needs the model apart from its loss: "
                "build the objective with Objective.from_model(model, output_loss, data)"
            )
        params = check_params(params)
        return GaussNewtonOperator(self, params)
