"""Drawn sequences: sorting, modular arithmetic, brackets; random targets; what training makes of
weights."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit.objective import Objective
from aeoskit.sharding import Placement, make_mesh
from aeoskit_experiments import UserError
from aeoskit_experiments.data import PairDataset, dyck, markov, modular, sorting, tokens
from aeoskit_experiments.execution import execute
from aeoskit_experiments.losses import cross_entropy
from aeoskit_experiments.pipelines import make_stage, pipe
from aeoskit_experiments.planning._abstract import abstract_run


def answers(data: Any) -> np.ndarray:
    """The targets, row by row."""
    targets, weights = data.targets
    kept = np.asarray(weights) > 0
    return np.asarray(targets)[kept].reshape(len(kept), -1)


def test_sorting():
    data = sorting(examples=40, length=5, vocabulary=9)
    inputs, (targets, weights) = np.asarray(data.inputs), data.targets
    assert inputs.shape == targets.shape == weights.shape == (40, 10)
    assert data.vocabulary == 10
    np.testing.assert_array_equal(inputs[:, 5], 9)  # the separator
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    np.testing.assert_array_equal(answers(data), np.sort(inputs[:, :5], axis=1))
    assert set(inputs[:, :5].ravel()) == set(range(9))


def test_sorting_as_pairs():
    data = sorting(examples=40, length=5, vocabulary=9, pairs=True)
    assert isinstance(data, PairDataset)
    (source, known), (targets, weights) = data.inputs, data.targets
    np.testing.assert_array_equal(targets, np.sort(source, axis=1))
    np.testing.assert_array_equal(known[:, 0], 1)
    np.testing.assert_array_equal(known[:, 1:], targets[:, :-1])
    assert set(np.unique(source)) == set(range(2, data.vocabulary))  # 0 and 1 have their meanings
    assert bool((weights == 1).all())


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("add", lambda a, b: (a + b) % 7),
        ("subtract", lambda a, b: (a - b) % 7),
        ("multiply", lambda a, b: a * b % 7),
    ],
)
def test_modular(operation, expected):
    data = modular(modulus=7, operation=operation)
    a, sign, b, equals = np.asarray(data.inputs).T
    assert sorted(zip(a, b, strict=True)) == list(itertools.product(range(7), repeat=2))
    assert (set(sign), set(equals), data.vocabulary) == ({7}, {8}, 9)
    np.testing.assert_array_equal(answers(data)[:, 0], expected(a, b))
    np.testing.assert_array_equal(data.inputs[:, 1:], data.targets[0][:, :-1])


def test_brackets_are_balanced_and_uniform():
    """Of 4 brackets of one kind and depth 2 there are two words, and each is as likely."""
    drawn: Any = dyck(examples=400, length=4, kinds=1, depth=2).targets
    words = [tuple(word) for word in drawn.tolist()]
    assert set(words) == {(0, 1, 0, 1), (0, 0, 1, 1)}
    assert 160 < words.count((0, 0, 1, 1)) < 240  # four deviations of a count
    data: Any = dyck(examples=200, length=12, kinds=3, depth=3)
    np.testing.assert_array_equal(data.inputs[:, 0], 6)
    np.testing.assert_array_equal(data.inputs[:, 1:], data.targets[:, :-1])
    deepest = 0
    for word in np.asarray(data.targets):
        opened: list[int] = []
        for token in word:
            if token < 3:
                opened.append(token)
                deepest = max(deepest, len(opened))
            else:
                assert opened.pop() == token - 3
        assert not opened
    assert deepest == 3
    assert len(np.unique(data.targets)) == 6


DRAWN = (
    (tokens, {"vocabulary": 5, "length": 6}, (0, 5)),
    (markov, {"vocabulary": 5, "length": 6}, (0, 5)),
    (sorting, {"vocabulary": 5, "length": 6}, (0, 5)),
    (sorting, {"vocabulary": 5, "length": 6, "pairs": True}, (2, 7)),
    (modular, {"modulus": 7}, (0, 7)),
    (dyck, {"kinds": 2, "length": 6}, (0, 4)),
)


@pytest.mark.parametrize(("make", "settings", "span"), DRAWN)
def test_noise_and_subsets(make, settings, span):
    """Noise leaves the inputs, is of tokens that could be answers, and is the same in a subset."""
    clean, noisy = (make(examples=40, label_noise=noise, **settings) for noise in (0.0, 0.5))
    assert jax.tree.all(jax.tree.map(np.array_equal, clean.inputs, noisy.inputs))
    true, noised = (
        answers(data) if isinstance(data.targets, tuple) else np.asarray(data.targets)
        for data in (clean, noisy)
    )
    other = true != noised
    low, high = span
    assert set(noised[other]) <= set(range(low, high))
    share = 0.5 * (1 - 1 / (high - low))  # some of the random ones are right
    assert abs(other.mean() - share) < 5 * (share / other.size) ** 0.5
    fewer = make(examples=7, label_noise=0.5, **settings)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:7]), fewer, noisy)
    seeded = make(examples=7, seed=1, **settings)
    assert not jax.tree.all(jax.tree.map(np.array_equal, seeded.inputs, fewer.inputs))


def test_shapes_with_nothing_drawn():
    for make in (sorting, dyck):
        spec = jax.eval_shape(lambda make=make: make(examples=10**9, length=1024, label_noise=0.1))
        assert jax.tree.leaves(spec.targets)[0].shape[0] == 10**9


@pytest.mark.parametrize(
    ("make", "settings", "why"),
    [
        (sorting, {"length": 0}, "length is 0"),
        (sorting, {"vocabulary": 1}, "vocabulary is 1"),
        (sorting, {"label_noise": 1.5}, "label_noise is 1.5"),
        (tokens, {"label_noise": -0.1}, "label_noise is -0.1"),
        (modular, {"modulus": 1}, "modulus is 1"),
        (modular, {"modulus": 4097}, "at most 4096"),
        (modular, {"modulus": 5, "examples": 26}, "there are 25 pairs"),
        (dyck, {"length": 7}, "an even number"),
        (dyck, {"kinds": 0}, "kinds is 0"),
        (dyck, {"depth": 0}, "depth is 0"),
        (dyck, {"seed": -1}, "seed is -1"),
        (dyck, {"seed": 2**32}, "from 0 to 4294967295"),  # jax would draw what seed 0 draws
        (markov, {"concentration": float("inf")}, "concentration is inf"),
    ],
)
def test_refused(make, settings, why):
    with pytest.raises(UserError, match=why) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)


def look_up(params: Any, inputs: Any) -> Any:
    """The smallest model of pairs: what follows depends on the token before it."""
    return params[inputs[1]]


def test_an_objective_of_pairs_in_parts():
    """Whole, in microbatches, over devices, in a batch: the mean over what has weight."""
    data = sorting(examples=7, length=3, vocabulary=4, pairs=True)
    targets, weights = data.targets
    weights = weights.at[2, 1:].set(0.0).at[5].set(0.0)
    params = jax.random.normal(jax.random.key(0), (data.vocabulary, data.vocabulary))
    losses = -np.asarray(jax.nn.log_softmax(params))[data.inputs[1], targets]
    some = np.array([5, 2, 1])

    def mean(rows: Any) -> float:
        return float(np.sum(losses[rows] * weights[rows]) / np.sum(weights[rows]))

    examples = data.inputs, (targets, weights)
    for placement in (None, Placement(make_mesh("data=2", jax.devices()[:2]))):
        objective = Objective.from_model(
            look_up, cross_entropy, examples, microbatch=2, params=params, placement=placement
        )
        assert objective.kind(params) == "weighted"
        assert float(objective.value(params)) == pytest.approx(mean(slice(None)), rel=1e-5)
        batch = objective.on_batch(jnp.asarray(some))
        assert float(batch.value(params)) == pytest.approx(mean(some), rel=1e-5)


def stages_of(variant: str, settings: dict[str, Any], **train: Any) -> Any:
    small = {"layers": 1, "heads": 1, "width": 8}
    return pipe(
        make_stage("data", variant, settings),
        make_stage("model", "transformer", small),
        make_stage("loss", "cross_entropy", {}),
        make_stage("optimizer", "adam", {"lr": 0.02}),
        make_stage("train", None, train),
        make_stage("place", None, {"mesh": "data=2", "devices": 2}),
        name="weighted",
    )


@pytest.mark.nightly
def test_a_transformer_learns_what_has_weight(runs):
    """In minibatches, microbatches and over devices, by the command's own path."""
    pipeline = stages_of(
        "sorting", {"examples": 12, "length": 3, "vocabulary": 3}, steps=60, batch=8, microbatch=2
    )
    outcome = execute(pipeline, root=runs)
    assert outcome.status == "finished"
    (run,) = outcome.summary["runs"]
    assert run["final_loss"] < 0.8  # a uniform guess has 1.39


def test_weighted_data_is_planned_from_shapes():
    pipeline = stages_of("modular", {"modulus": 97}, steps=1)
    placement = Placement(make_mesh("data=2", jax.devices()[:2]))
    experiment = pipe(*(s for s in pipeline.stages if s.stage != "place")).experiment()
    run = abstract_run(experiment, placement)
    assert run.trajectory.objective.n == 97**2
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(run.carry))
