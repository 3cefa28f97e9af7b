"""Matrices of known spectrum, and a pytree to hide them in."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np


def orthogonal(n: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def symmetric(spectrum: np.ndarray, seed: int = 0) -> np.ndarray:
    q = orthogonal(len(spectrum), seed)
    matrix = (q * spectrum[None]) @ q.T
    return (matrix + matrix.T) / 2


def operator(matrix: np.ndarray, dtype: type = np.float64) -> lx.AbstractLinearOperator:
    return lx.MatrixLinearOperator(jnp.asarray(matrix, dtype), lx.symmetric_tag)


N = 60


def spectra() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    off = np.diag(np.ones(N - 1), 1)
    wilkinson = np.diag(np.abs(np.arange(N) - (N - 1) / 2)) + off + off.T
    bulk = rng.uniform(-0.2, 8, N - 8)
    return {
        "clustered": symmetric(np.concatenate([10 - 0.04 * np.arange(8), bulk])),
        "indefinite": symmetric(np.concatenate([[3.0, 2.5, 2.0], np.linspace(-40, 1, N - 3)])),
        "tiny_gap": symmetric(np.concatenate([[1.0, 1 - 1e-6], np.linspace(-0.5, 0.5, N - 2)])),
        "rank_deficient": symmetric(np.concatenate([[5.0, 4.0, 3.0], np.zeros(N - 3)])),
        "huge_condition": symmetric(np.logspace(-9, 4, N)),
        "wilkinson": wilkinson,
        "repeated": symmetric(np.concatenate([[5.0, 5.0, 5.0], np.ones(N - 3)])),
        "negative_definite": symmetric(-np.linspace(1, 9, N)),
        "zero": np.zeros((N, N)),
        "identity": np.eye(N),
    }


class TreeOperator(lx.AbstractLinearOperator):
    """A matrix that acts on a pytree with several leaves; counts its traces."""

    matrix: jax.Array

    def mv(self, vector):
        TRACES.append(1)
        flat = jnp.concatenate([vector["b"], vector["a"].reshape(-1)])
        image = self.matrix @ flat
        return {"b": image[:4], "a": image[4:].reshape(7, 8)}

    def as_matrix(self):
        return self.matrix

    def transpose(self):
        return self

    def in_structure(self):
        dtype = self.matrix.dtype
        return {"a": jax.ShapeDtypeStruct((7, 8), dtype), "b": jax.ShapeDtypeStruct((4,), dtype)}

    def out_structure(self):
        return self.in_structure()


TRACES: list[int] = []
lx.linearise.register(TreeOperator, lambda operator: operator)
lx.is_symmetric.register(TreeOperator, lambda operator: True)
for _query in (
    lx.is_positive_semidefinite,
    lx.is_negative_semidefinite,
    lx.is_diagonal,
    lx.is_tridiagonal,
):
    _query.register(TreeOperator, lambda operator: False)
