"""Arnoldi against numpy's dense decomposition in float64."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse.linalg

from aeoskit.linalg import EVIDENCE, RESULTS, Arnoldi, compiling_for, eigensolve

from .spectra import TreeOperator, orthogonal

N = 16
LM = "largest_magnitude"
SR = "smallest_real"


def plain(matrix, dtype=np.float64):
    return lx.MatrixLinearOperator(jnp.asarray(matrix, dtype))


def best(matrix, which, k):
    """The k best eigenvalues, the upper one of a pair first."""
    values = np.linalg.eigvals(np.asarray(matrix, np.float64))
    keys = {
        "smallest_real": values.real,
        "largest_real": -values.real,
        "largest_magnitude": -np.abs(values),
    }
    # Rounded: in numpy's answer the two of a pair agree to the last digit or so.
    order = np.lexsort((-values.imag, np.round(keys[which], 9)))
    return values[order][:k]


def rotations(radii, angles, seed=0):
    """A normal matrix with the eigenvalues `r exp(±iφ)`."""
    n = 2 * len(radii)
    blocks = np.zeros((n, n))
    for i, (r, phi) in enumerate(zip(radii, angles, strict=True)):
        c, s = r * np.cos(phi), r * np.sin(phi)
        blocks[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[c, s], [-s, c]]
    q = orthogonal(n, seed)
    return q @ blocks @ q.T


def grcar(n):
    matrix = np.eye(n) - np.diag(np.ones(n - 1), -1)
    for d in (1, 2, 3):
        matrix += np.diag(np.ones(n - d), d)
    return matrix


def cases():
    rng = np.random.default_rng(3)
    q = orthogonal(N, 5)
    out: list[tuple[str, np.ndarray]] = []
    for i in range(4):
        out.append(("random", rng.normal(size=(N, N))))
        companion = np.diag(np.ones(N - 1), -1)
        companion[0] = -rng.normal(size=N)
        out.append(("companion", companion))
        turns = rotations(1.3 ** -np.arange(N // 2), rng.uniform(0.2, 2.9, N // 2), i)
        out.append(("rotations", turns))
        near = np.diag(np.linspace(-1, 1, N))
        near[:2, :2] = [[-2, 1], [-1e-6 * (i - 2), -2]]
        out.append(("nearly_defective", q @ near @ q.T))
        # The Jacobian of an adaptive optimizer is of this kind: entries from 1e-5 to 1e5.
        known = np.diag(np.linspace(-1.3, 0.9, N)) + 0.1 * np.triu(rng.normal(size=(N, N)), 1)
        d = np.exp(rng.uniform(-6, 6, N))
        out.append(("scaled", (q @ known @ q.T) * d[None, :] / d[:, None]))
        out.append(("huge", 1e200 * rng.normal(size=(N, N))))
        out.append(("tiny", 1e-200 * rng.normal(size=(N, N))))
        out.append(("orthogonal", orthogonal(N, i)))
    jordan = np.diag(np.linspace(-1, 1, N))
    jordan[:4, :4] = 3 * np.eye(4) + np.diag(np.ones(3), 1)
    jordan[4:8, 4:8] = -3 * np.eye(4) + np.diag(np.ones(3), 1)
    out += [
        ("jordan", q @ jordan @ q.T),
        ("nilpotent", np.diag(np.ones(N - 1), 1)),
        ("low_rank", q[:, :3] @ np.diag([3.0, -2, 1]) @ rng.normal(size=(3, N))),
        ("zero", np.zeros((N, N))),
        ("identity", -3 * np.eye(N)),
        ("repeated", np.kron(np.eye(N // 2), [[0.5, 1.0], [-2.0, 0.5]])),
        ("nan", np.full((N, N), np.nan)),
        ("shift", np.roll(np.eye(N), 1, axis=0)),
    ]
    return out


@functools.cache
def batch():
    """All cases in one compiled program, k=2 with a basis that has to restart."""
    names, matrices = zip(*cases(), strict=True)
    matrices = np.stack(matrices)
    # Without copies: beside pairs of operators far from normal, looking for them has no end.
    solver = Arnoldi(basis=9, rtol=1e-9, atol=1e-11, copies=False)

    def solve(matrix, key):
        return eigensolve(plain(matrix), solver, k=2, which=LM, start=key, max_matvecs=120)

    keys = jax.random.split(jax.random.key(1), len(names))
    solution = jax.jit(jax.vmap(solve))(jnp.asarray(matrices), keys)
    return np.array(names), matrices, solution


def test_claims_are_true(x64):
    """Residuals are those of the pairs returned, also where nothing converged."""
    names, matrices, s = batch()
    sound = names != "nan"
    vectors, values = np.asarray(s.vectors)[sound], np.asarray(s.values)[sound]
    residuals, converged = np.asarray(s.residuals)[sound], np.asarray(s.converged)
    matrices = matrices[sound]
    assert np.isfinite(values).all()
    assert np.isfinite(residuals).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-12)
    size = np.maximum(np.abs(matrices).max((1, 2)), 1e-300)[:, None]  # no square overflows
    image = np.einsum("bij,bkj->bki", matrices / size[..., None], vectors)
    true = size * np.linalg.norm(image - (values / size)[..., None] * vectors, axis=-1)
    assert (true <= residuals * (1 + 1e-6)).all(), names[sound][(true > residuals).any(1)]
    # And not far above: the rest is rounding.
    assert (residuals <= true * (1 + 1e-6) + 1e-12 * size * N).all()
    tolerance = 1e-9 * np.abs(values) + 1e-11
    assert (converged[sound] == (residuals <= tolerance)).all()
    success = np.asarray(s.result == RESULTS.successful)
    assert (success == converged.all(1)).all()
    assert (np.asarray(s.stats["matvecs"]) <= 120).all()


def test_against_numpy(x64):
    names, matrices, s = batch()
    success = np.asarray(s.result == RESULTS.successful)
    values, bounds = np.asarray(s.values), np.asarray(s.bounds)
    for name in ("random", "companion", "rotations", "scaled", "huge"):
        lanes = np.flatnonzero(names == name)
        # The estimate sees the left eigenvectors through the basis only: far too low there.
        factor = 100 if name == "scaled" else 10
        # A solve may miss a pair (a Krylov space promises none), yet not often.
        right = 0
        for i in lanes:
            wanted = best(matrices[i] / np.abs(matrices[i]).max(), LM, 2)
            wanted = wanted * np.abs(matrices[i]).max()
            error = np.abs(values[i] - wanted)
            right += bool((error <= factor * bounds[i] + 1e-9 * np.abs(wanted)).all())
        assert success[lanes].sum() >= len(lanes) - 1, (name, success[lanes])
        assert right >= len(lanes) - 1, (name, right)
    # Defective: the error is of the order of the fourth root of the rounding, and the bars say so.
    (i,) = np.flatnonzero(names == "jordan")
    assert np.abs(np.abs(values[i]) - 3).max() < 1e-2
    assert np.asarray(s.stats["condition"])[i].min() > 100
    for name in ("zero", "identity", "repeated"):
        (i,) = np.flatnonzero(names == name)
        assert success[i], name
        # Of two equal pairs, which two of the four come first is no one's to say.
        wanted = best(matrices[i], LM, 2)
        found = values[i].real + 1j * np.abs(values[i].imag)
        np.testing.assert_allclose(found, wanted.real + 1j * np.abs(wanted.imag), atol=1e-9)


def test_conjugate_pairs(x64):
    """The upper one first, and vectors that belong together."""
    names, _, s = batch()
    values, vectors = np.asarray(s.values), np.asarray(s.vectors)
    for i in np.flatnonzero(names == "rotations"):
        assert values[i, 0].imag > 0
        assert values[i, 1] == values[i, 0].conj()
        np.testing.assert_allclose(vectors[i, 1], vectors[i, 0].conj(), atol=1e-12)


def test_nonfinite(x64):
    names, _, s = batch()
    (i,) = np.flatnonzero(names == "nan")
    assert bool((s.result == RESULTS.nonfinite)[i])
    assert np.isnan(np.asarray(s.values)[i]).all()
    assert not np.asarray(s.converged)[i].any()
    assert not np.asarray(s.is_top)[i].any()
    assert int(s.stats["matvecs"][i]) == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(s.state.block))


def test_products_and_condition_numbers(x64):
    """No more products than ARPACK with the same basis; condition numbers of the operator."""
    n, k, basis = 60, 3, 20
    rng = np.random.default_rng(0)
    matrices = {
        "random": rng.normal(size=(n, n)) / np.sqrt(n),
        "rotations": rotations(np.linspace(1, 0.1, n // 2), 0.3 + np.arange(n // 2) / 4),
        "grcar": grcar(n),
    }
    solver = Arnoldi(basis=basis, rtol=1e-8, copies=False)
    for name, matrix in matrices.items():
        s = eigensolve(plain(matrix), solver, k=k, which="largest_real", max_matvecs=2000)
        assert bool(s.result == RESULTS.successful), name
        values, condition = conditions(matrix)
        if name == "grcar":
            # Its true condition numbers are far larger; what the basis shows of them is a hint.
            assert np.asarray(s.stats["condition"]).min() > 10
            continue
        wanted = best(matrix, "largest_real", k)
        np.testing.assert_allclose(s.values, wanted, atol=1e-7)
        nearest = np.argmin(np.abs(values[None] - wanted[:, None]), axis=1)
        # Through the basis only: low, never high.
        ratio = np.asarray(s.stats["condition"]) / condition[nearest]
        assert ((ratio > 0.3) & (ratio < 1.001)).all(), (name, ratio)
        error = np.abs(np.asarray(s.values) - wanted)
        assert (error <= 3 * np.asarray(s.bounds) + 1e-13).all()
        assert bool(s.evidence == EVIDENCE.none)
        assert not np.asarray(s.is_top).any()
        linear = Counted(matrix)
        start = np.random.default_rng(1).normal(size=n)
        scipy.sparse.linalg.eigs(linear, k=k, which="LR", ncv=basis, tol=1e-8, v0=start)
        assert int(s.stats["matvecs"]) <= linear.products, (
            name,
            int(s.stats["matvecs"]),
            linear.products,
        )


def conditions(matrix):
    """Every eigenvalue with its condition number."""
    values, right = np.linalg.eig(matrix)
    # Rows of the inverse are left vectors, scaled so that each has product 1 with its own.
    return values, np.linalg.norm(np.linalg.inv(right), axis=1)


class Counted(scipy.sparse.linalg.LinearOperator):
    """What ARPACK is given, counting its products."""

    def __init__(self, matrix):
        super().__init__(dtype=matrix.dtype, shape=matrix.shape)
        self.matrix, self.products = matrix, 0

    def _matvec(self, x):
        self.products += 1
        return self.matrix @ x


def test_starts_on_a_pytree():
    """Block, zero, not finite, and a state: one program in float32."""
    rng = np.random.default_rng(4)
    matrix = rng.normal(size=(60, 60)) / 8 - np.diag(np.r_[3.0, 2.5, np.zeros(58)])
    operator = TreeOperator(jnp.asarray(matrix, jnp.float32))
    solver, which = Arnoldi(), "smallest_real"
    wanted = best(matrix, which, 1)

    def check(s):
        assert bool(s.result == RESULTS.successful)
        assert jax.tree.map(jnp.shape, s.vectors) == {"a": (1, 7, 8), "b": (1, 4)}
        assert s.vectors["a"].dtype == jnp.complex64
        flat = np.concatenate([s.vectors["b"][0], s.vectors["a"][0].ravel()])
        true = np.linalg.norm(matrix @ flat - complex(s.values[0]) * flat)
        assert true <= float(s.residuals[0]) <= 1e-3 * abs(s.values[0])
        np.testing.assert_allclose(s.values, wanted, atol=float(2 * s.bounds[0]))
        return int(s.stats["matvecs"])

    empty = solver.initial_state(operator.in_structure(), 1, jax.random.key(2))
    cold = eigensolve(operator, solver, which=which, start=empty)
    spent = check(cold)
    assert bool(cold.evidence == EVIDENCE.random_start)
    warm = eigensolve(operator, solver, which=which, start=cold.state)
    assert check(warm) < spent
    assert bool(warm.evidence == EVIDENCE.fresh_direction)
    cell = {"a": jnp.zeros((7, 8)), "b": jnp.zeros(4)}
    for value in (0.0, np.nan, np.inf):
        block = jax.tree.map(lambda x, value=value: jnp.full((3, *x.shape), value, x.dtype), cell)
        check(eigensolve(operator, solver, which=which, start=block))
    short = eigensolve(operator, solver, which=which, start=empty, max_matvecs=3)
    assert bool(short.result == RESULTS.max_matvecs_reached)
    assert not short.converged.any()
    # Eigenvalue zero next to large ones: the floor is reported, not called converged.
    radii = np.r_[0.0, np.linspace(5, 9, 29)]
    singular = TreeOperator(jnp.asarray(rotations(radii, np.full(30, 0.1)), jnp.float32))
    zero = eigensolve(singular, solver, which=which, start=empty)
    assert bool(zero.result == RESULTS.stagnation)
    assert not zero.converged.any()
    assert abs(zero.values[0]) < 1e-4
    assert int(short.stats["matvecs"]) == 3


def test_whole_space(x64):
    """A basis as large as the space: every value, and condition numbers exactly."""
    n = 14
    matrix = np.random.default_rng(2).normal(size=(n, n))
    s = eigensolve(plain(matrix), Arnoldi(rtol=1e-8), k=n, which="largest_real")
    assert bool(s.result == RESULTS.successful)
    assert bool(s.evidence == EVIDENCE.whole_space)
    assert int(s.stats["matvecs"]) == n
    np.testing.assert_allclose(s.values, best(matrix, "largest_real", n), atol=1e-10)
    values, condition = conditions(matrix)
    nearest = np.argmin(np.abs(values[None] - np.asarray(s.values)[:, None]), axis=1)
    np.testing.assert_allclose(s.stats["condition"], condition[nearest], rtol=1e-8)


def test_the_drivers_agree(x64):
    """NumPy solves the small problem of the one, LAPACK through XLA that of the other."""
    matrix = rotations(1.1 ** -np.arange(N // 2), np.linspace(0.3, 2.8, N // 2))
    # A basis of 9 stalls here from one start in seven, between two pairs that compete.
    solver = Arnoldi(basis=10, rtol=1e-8)
    for driver in ("host", "compiled"):
        s = eigensolve(plain(matrix), solver, k=2, which="smallest_real", driver=driver)
        assert int(s.stats["restarts"]) > 0
        assert bool(s.result == RESULTS.successful)
        np.testing.assert_allclose(s.values, best(matrix, "smallest_real", 2), atol=1e-7)


def test_copies(x64):
    """Of real values and of a pair, far from the start of a Krylov space that has one of each."""
    n, pair = 60, np.array([[0.0, 1.2], [-1.2, 0.0]])
    matrix = np.diag(np.r_[np.zeros(4), [1.6, 1.6], 0.8 * np.linspace(-1, 1, n - 6)])
    matrix[:4, :4] = np.kron(np.eye(2), pair)
    skew = np.eye(n) + 0.1 * np.triu(np.random.default_rng(0).normal(size=(n, n)), 1) / np.sqrt(n)
    matrix = skew @ matrix @ np.linalg.inv(skew)
    s = eigensolve(plain(matrix), Arnoldi(), k=6, which=LM)
    assert np.asarray(s.converged & s.is_top).all()
    wanted = [1.6, 1.6, 1.2j, -1.2j, 1.2j, -1.2j]
    np.testing.assert_allclose(s.values, wanted, atol=5e-3)
    # One copy of each, and nothing is claimed, where they are not looked for.
    s = eigensolve(plain(matrix), Arnoldi(copies=False), k=6, which=LM)
    assert abs(s.values[1] - 1.6) > 0.1
    assert not np.asarray(s.is_top).any()
    # The next operator, from the state: all are held, and searched beside.
    cold = eigensolve(plain(matrix), Arnoldi(), k=6, which=LM)
    warm = eigensolve(plain(1.01 * matrix), Arnoldi(), k=6, which=LM, start=cold.state)
    np.testing.assert_allclose(warm.values, 1.01 * np.array(wanted), atol=5e-3)
    assert np.asarray(warm.is_top).all()
    assert int(warm.stats["matvecs"]) < int(cold.stats["matvecs"])


def test_a_restart_keeps_dependent_vectors_values():
    """Zeros many times over: to rounding two computed vectors are one, and both have to be kept.

    In a restart's coordinates any other Ritz vector would look as good in its place.
    """
    rng = np.random.default_rng(0)
    count = 64
    factors = [orthogonal(32, i)[:, : rng.integers(3, 8)] for i in range(count)]
    spectra = [x / x.max() for x in (rng.chisquare(20, q.shape[1]) for q in factors)]
    matrices = np.stack([(q * x) @ q.T for q, x in zip(factors, spectra, strict=True)])

    def solve(lane):
        matrix, key = lane
        solver = Arnoldi(atol=1e-4)
        state = solver.initial_state(jax.ShapeDtypeStruct((32,), jnp.float32), 6, key)
        found = eigensolve(plain(matrix, jnp.float32), solver, k=6, which=SR, start=state)
        return found.values, found.converged & found.is_top

    lanes = (jnp.asarray(matrices, jnp.float32), jax.random.split(jax.random.key(0), count))
    values, claimed = jax.jit(lambda lanes: jax.lax.map(solve, lanes))(lanes)
    assert np.asarray(claimed).all()
    np.testing.assert_allclose(values, 0, atol=1e-4)


def test_where_the_backend_cannot():
    """Elsewhere NumPy solves the small problem, which a compiled program cannot ask."""
    operator, solver = plain(np.eye(4), np.float32), Arnoldi()
    with compiling_for("tpu"), pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda o: eigensolve(o, solver, which="largest_real").values)(operator)


def test_one_and_two_dimensions():
    s = eigensolve(plain([[-2.0]], np.float32), Arnoldi(), which="smallest_real")
    assert s.values.tolist() == [-2]
    assert int(s.stats["matvecs"]) == 1
    turn = plain([[0.0, 1.0], [-4.0, 0.0]], np.float32)
    s = eigensolve(turn, Arnoldi(), k=2, which="largest_real")
    np.testing.assert_allclose(s.values, [2j, -2j], atol=1e-5)
    np.testing.assert_allclose(s.stats["condition"], 1.25, rtol=1e-5)
    assert bool(s.result == RESULTS.successful)


def test_questions_that_make_no_sense():
    operator = plain(np.eye(40), np.float32)
    with pytest.raises(ValueError, match="smallest_real"):
        eigensolve(operator, Arnoldi())
    with pytest.raises(ValueError, match="basis="):
        eigensolve(operator, Arnoldi(basis=8), k=6, which="largest_real")
    for options in ({"basis": 2}, {"rtol": -1.0}, {"explore": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Arnoldi(**options)
