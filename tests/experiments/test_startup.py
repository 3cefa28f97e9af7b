"""What a run costs beside what it computes: how many programs it compiles, and what is imported."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit_experiments import UserError, execute
from aeoskit_experiments.benchmarks import run_startup_benchmark
from aeoskit_experiments.data import AnyDataset, digits, markov
from aeoskit_experiments.models import Model, lstm, mlp, vit
from aeoskit_experiments.pipelines import data, loss, model, optimizer, pipe, train

RUN = (
    "pipe data digits --examples 20 model mlp --width 4 --depth 1 loss mse optimizer adam --lr 1e-2"
    " train --steps 2 store --no-checkpoints"
)


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """The programs that are compiled in this test, by name, none being there before."""
    jax.clear_caches()
    names: list[str] = []

    def heard(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(kwargs["fun_name"]))

    jax.monitoring.register_event_duration_secs_listener(heard)
    yield names
    jax.monitoring.unregister_event_duration_listener(heard)


def test_a_run_compiles_few_programs(compiled: list[str], runs: Path) -> None:
    pipeline = pipe(
        data("digits", examples=20),
        model("mlp", width=4, depth=2),
        loss("mse"),
        optimizer("adam", lr=(1e-3, 1e-2)),
        train(2),
    )
    assert execute(pipeline, root=runs).exit_code == 0
    # An array at a time it were some seventy, each for tens of milliseconds.
    assert compiled.count("jit(_drawn)") == compiled.count("jit(_initial)") == 1
    assert "jit(broadcast_in_dim)" not in compiled
    assert len(compiled) <= 20


@pytest.mark.parametrize(
    ("network", "dataset"),
    [
        (mlp(width=5), digits(examples=4)),
        (vit(width=8), digits(examples=4)),
        (lstm(width=4, scale=0.3), markov(examples=4)),
    ],
)
def test_parameters_are_the_same_drawn_by_one_program(network: Model, dataset: AnyDataset) -> None:
    key = jax.random.key(3)
    alone = network.init(key, dataset)
    together = jax.jit(lambda key: network.init(key, dataset))(key)
    jax.tree.map(np.testing.assert_array_equal, alone, together)


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    found = digits(standardize="none")
    order = np.random.default_rng([0, 0]).permutation(len(labels))
    np.testing.assert_array_equal(found.labels, labels[order])
    np.testing.assert_array_equal(found.inputs, jnp.asarray(pixels[order] / 16, jnp.float32))


@pytest.mark.slow
def test_who_waits_for_runs_imports_neither_figures_nor_tables() -> None:
    script = (
        "import sys, aeoskit_experiments.sweeps, aeoskit_experiments.planning\n"
        "from aeoskit_experiments.execution import Listener\n"
        "from aeoskit_experiments.execution._interrupt import Interrupt\n"
        "from aeoskit_experiments.data import digits\n"
        "digits(examples=3)\n"
        "print(sorted({'matplotlib', 'pandas', 'pyarrow', 'sklearn', 'xarray'} & set(sys.modules)))"
    )
    paths = [path for path in sys.path if path]
    code = f"import sys; sys.path[:0] = {paths!r}\n{script}"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_benchmark_counts_every_second_and_every_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    found = run_startup_benchmark(command=RUN)
    *phases, whole = found["rows"]
    names = ["imports", "compile", "lower", "trace", "draw", "build", "run", "other"]
    assert [row["phase"] for row in phases] == names
    for kind in ("cold", "from_cache"):
        assert all(row[kind] >= 0 for row in phases)
        assert sum(row[kind] for row in phases) == pytest.approx(whole[kind], abs=0.05)
        assert phases[0][kind] > 0
    compiled, read = found["counts"]
    assert read["cold"] + compiled["cold"] == read["from_cache"] + compiled["from_cache"]
    assert compiled["cold"] > 5
    assert compiled["from_cache"] <= 1  # what a check compiles before the execution begins
    assert any("_scan_chunk" in row["program"] for row in found["programs"])
    assert {"jax", "aeoskit"} <= {row["import"] for row in found["imports"]}
    with pytest.raises(UserError, match="ended with 2: error: unknown recipe 'no-such'"):
        run_startup_benchmark(command="run no-such")
