"""The reference problems of `aeoskit bench eigen`: networks at and below the edge, and matrices.

`training_problem("B")` is a network in training, `.operator()` its present curvature, and
`.advanced(steps)` the same problem after more steps; `matrix_problem("wilkinson")` is a matrix of
known spectrum.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Int, PyTree

from aeoskit.linalg import AbstractPreconditioner, PreconditionedOperator
from aeoskit.objective import Objective
from aeoskit.optimizers import Optimizer, OptimizerState, adam, apply_updates
from aeoskit_experiments._errors import unknown
from aeoskit_experiments.data import Dataset, TokenDataset, digits
from aeoskit_experiments.losses import cross_entropy, mse
from aeoskit_experiments.models import Model, cnn, mlp

HESSIAN, PRECONDITIONED = "H", "P⁻¹H"


class Point(eqx.Module):
    """The arrays that a curvature operator needs at one moment of training."""

    params: PyTree
    preconditioner: AbstractPreconditioner | None


class TrainingProblem(eqx.Module):
    """A network in training, with one of its curvature operators.

    Attributes:
        name: Its name in the benchmark.
        objective: The mean loss.
        optimizer: Its optimizer.
        params: The present parameters.
        state: The optimizer's state.
        preconditioned: Whether the operator is `P^{-1/2} H P^{-1/2}`, with the P of the coming
            step, and not H.
    """

    name: str = eqx.field(static=True)
    objective: Objective
    optimizer: Optimizer
    params: PyTree
    state: OptimizerState
    preconditioned: bool = eqx.field(static=True)

    @property
    def operator_name(self) -> str:
        """`H` or `P⁻¹H`."""
        return PRECONDITIONED if self.preconditioned else HESSIAN

    def operator(self) -> lx.AbstractLinearOperator:
        """The operator at the present parameters."""
        return _operator(self)

    def gradient(self) -> PyTree:
        """The gradient at the present parameters, by one compiled program."""
        return _gradient(self)

    def operator_at(self, point: Point) -> lx.AbstractLinearOperator:
        """The operator at another moment (one of `points`)."""
        hessian = self.objective.hessian(point.params)
        if point.preconditioner is None:
            return hessian
        return PreconditionedOperator(hessian, point.preconditioner)

    def advanced(self, steps: int) -> "TrainingProblem":
        """The problem after more steps of training, by one program for any number of steps."""
        params, state = _train(self, jnp.asarray(steps))
        return eqx.tree_at(lambda p: (p.params, p.state), self, (params, state))

    def points(self, steps: int) -> Point:
        """The next `steps` moments of training, this one first: they are axis 0 of each leaf."""
        return _points(self, steps)


@eqx.filter_jit
def _gradient(problem: TrainingProblem) -> PyTree:
    return problem.objective.gradient(problem.params)


@eqx.filter_jit
def _operator(problem: TrainingProblem) -> lx.AbstractLinearOperator:
    preconditioner = None
    if problem.preconditioned:
        grads = problem.objective.gradient(problem.params)
        preconditioner = problem.optimizer.preconditioner(problem.state, grads)
    return problem.operator_at(Point(problem.params, preconditioner))


def _step(problem: TrainingProblem, carry: tuple[PyTree, OptimizerState], grads: PyTree) -> Any:
    params, state = carry
    updates, state = problem.optimizer.update(grads, state, params)
    return apply_updates(params, updates), state


@eqx.filter_jit
def _train(problem: TrainingProblem, steps: Int[Array, ""]) -> Any:
    def step(_: Any, carry: Any) -> Any:
        return _step(problem, carry, problem.objective.gradient(carry[0]))

    return jax.lax.fori_loop(0, steps, step, (problem.params, problem.state))


@eqx.filter_jit
def _points(problem: TrainingProblem, steps: int) -> Any:
    def step(carry: Any, _: None) -> Any:
        params, state = carry
        grads = problem.objective.gradient(params)
        preconditioner = None
        if problem.preconditioned:
            preconditioner = problem.optimizer.preconditioner(state, grads)
        return _step(problem, carry, grads), Point(params, preconditioner)

    return jax.lax.scan(step, (problem.params, problem.state), length=steps)[1]


def prepared(
    name: str,
    data: Dataset | TokenDataset,
    model: Model,
    loss: Callable[..., Any],
    optimizer: Optimizer,
    preconditioned: bool,
    seed: int,
) -> TrainingProblem:
    """A problem before its training."""
    params = model.init(jax.random.key(seed), data)
    return TrainingProblem(
        name=name,
        objective=Objective.from_model(model.apply, loss, (data.inputs, data.targets)),
        optimizer=optimizer,
        params=params,
        state=optimizer.init(params),
        preconditioned=preconditioned,
    )


def synthetic_images(examples: int, seed: int = 0, classes: int = 10, side: int = 32) -> Dataset:
    """Smooth random images of 3 channels, a class a template, with noise: CIFAR-10's shapes."""
    rng = np.random.default_rng([seed, 2])
    coarse = side // 4

    def smooth(count: int) -> np.ndarray:
        drawn = rng.normal(size=(count, coarse, coarse, 3))
        return drawn.repeat(4, axis=1).repeat(4, axis=2)

    labels = rng.integers(classes, size=examples)
    images = 0.5 * smooth(classes)[labels] + smooth(examples)
    images += 0.5 * rng.normal(size=images.shape)
    mean, deviation = (
        f(images, axis=(0, 1, 2), keepdims=True)  # one number per channel
        for f in (np.mean, np.std)
    )
    return Dataset(
        inputs=jnp.asarray(((images - mean) / deviation).reshape(examples, -1), jnp.float32),
        labels=jnp.asarray(labels, jnp.int32),
        targets=jnp.asarray(np.eye(classes)[labels], jnp.float32),
        num_classes=classes,
        image_shape=(side, side, 3),
    )


def training_problem(
    name: Literal["A", "B", "B2", "C", "D"] | str,
    *,
    seed: int = 0,
    examples: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    convolution: Literal["lax", "shifted"] = "lax",
) -> TrainingProblem:
    """One of the reference problems, trained.

    - A: digits, MLP 64-100-100-10 (tanh), cross-entropy, 200 Adam steps at 1e-3: H before the edge.
    - B: the same network, squared error, 2,000 Adam steps at 5e-3: `P⁻¹H` at the edge, whose top
      values are a cluster.
    - B2: 1,000 digits, squared error, 1,500 Adam steps at 3e-3 with `β₂ = .99`: `P⁻¹H`.
    - C: MLP 3072-200-200-10 on 1,000 synthetic images, 657,000 parameters, cross-entropy, 2 Adam
      steps at 1e-3: H.
    - D: a CNN of two convolutions of 16 channels on 500 digits, cross-entropy, 100 Adam steps at
      1e-3: H.

    Args:
        name: The problem's name.
        seed: Seed of the initial parameters.
        examples: Fewer examples than it has (for tests).
        width: Other units in a layer, or channels.
        steps: Another number of training steps.
        convolution: D's convolution; both have the same function, and the same training.

    Returns:
        The problem after its training.

    Raises:
        UserError: For an unknown name.
    """
    if name == "A":
        data, model, loss = (
            digits(examples=examples or 1797),
            mlp(width=width or 100),
            cross_entropy,
        )
        loss, optimizer, preconditioned, length = cross_entropy, adam(1e-3), False, 200
    elif name == "B":
        data, model, loss = digits(examples=examples or 1797), mlp(width=width or 100), mse
        optimizer, preconditioned, length = adam(5e-3), True, 2000
    elif name == "B2":
        data, model, loss = digits(examples=examples or 1000), mlp(width=width or 100), mse
        optimizer, preconditioned, length = adam(3e-3, beta2=0.99), True, 1500
    elif name == "C":
        data, model = synthetic_images(examples or 1000), mlp(width=width or 200)
        loss, optimizer, preconditioned, length = cross_entropy, adam(1e-3), False, 2
    elif name == "D":
        # Trained with the convolution that is fast inside a scan on every backend.
        data, model = digits(examples=examples or 500), cnn(channels=width or 16)
        loss, optimizer, preconditioned, length = cross_entropy, adam(1e-3), False, 100
    else:
        raise unknown("reference problem", name, ("A", "B", "B2", "C", "D"))
    problem = prepared(name, data, model, loss, optimizer, preconditioned, seed)
    problem = problem.advanced(length if steps is None else steps)
    if name == "D" and convolution == "lax":
        same = cnn(channels=width or 16, convolution="lax")
        objective = Objective.from_model(same.apply, cross_entropy, (data.inputs, data.targets))
        problem = eqx.tree_at(lambda p: p.objective, problem, objective)
    return problem


def matrix_spectra(n: int = 300) -> dict[str, np.ndarray]:
    """Spectra that are hard, each in its own way; of Wilkinson's the matrix itself is known."""
    rng = np.random.default_rng(7)
    bulk = rng.uniform(-0.2, 8, n - 8)
    return {
        "clustered": np.concatenate([10 - 0.04 * np.arange(8), bulk]),
        "indefinite": np.concatenate([[3.0, 2.5, 2.0], np.linspace(-40, 1, n - 3)]),
        "tiny gap": np.concatenate([[1.0, 1 - 1e-6], np.linspace(-0.5, 0.5, n - 2)]),
        "rank 3": np.concatenate([[5.0, 4.0, 3.0], np.zeros(n - 3)]),
        "condition": np.logspace(-9, 4, n),
        "repeated": np.concatenate([[5.0, 5.0, 5.0], rng.uniform(0, 4, n - 3)]),
    }


MATRICES = ("clustered", "indefinite", "tiny gap", "rank 3", "condition", "repeated", "wilkinson")


def matrix_problem(name: str, n: int = 300) -> lx.MatrixLinearOperator:
    """A symmetric matrix of known spectrum, in float32.

    - clustered: the top eight within 3 %; indefinite: the bottom is 13 times larger than the top;
      tiny gap: two that differ by 1e-6; rank 3: all others are zero; condition: 1e13; repeated:
      the top one three times; wilkinson: tridiagonal, in pairs that agree to many digits.

    Args:
        name: The problem's name.
        n: Its dimension.

    Returns:
        The operator, tagged symmetric.

    Raises:
        UserError: For an unknown name.
    """
    if name == "wilkinson":
        off = np.diag(np.ones(n - 1), 1)
        matrix = np.diag(np.abs(np.arange(n) - (n - 1) / 2)) + off + off.T
    elif name in MATRICES:
        q = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0]
        matrix = (q * matrix_spectra(n)[name][None]) @ q.T
        matrix = (matrix + matrix.T) / 2
    else:
        raise unknown("matrix", name, MATRICES)
    return lx.MatrixLinearOperator(jnp.asarray(matrix, jnp.float32), lx.symmetric_tag)
