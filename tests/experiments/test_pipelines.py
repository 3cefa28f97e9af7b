"""Pipelines: what is refused before any work, what a sweep splits into, and that data, command
and Python say the same."""

import json
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aeoskit_experiments.options import Option, coerce, options_of
from aeoskit_experiments.pipelines import (
    STAGES,
    Pipeline,
    UserError,
    branch,
    data,
    loss,
    make_stage,
    model,
    optimizer,
    options_for,
    pipe,
    plot,
    rewind,
    store,
    track,
    train,
)
from aeoskit_experiments.recipes import RECIPES, make_recipe, make_suite, recipe_options

DECAYS = st.floats(0, 0.999)
POSITIVE = st.floats(1e-9, 1e6)
SMALL = st.integers(1, 50)
BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "lr": POSITIVE,
    "beta1": DECAYS,
    "beta2": DECAYS,
    "label_noise": st.floats(0, 1),
    "seed": st.integers(0, 2**31),
    "classes": st.integers(2, 50),
    "basis": st.integers(10, 30),
    "vocabulary": st.integers(2, 4096),
    "modulus": st.integers(2, 97),
    "k": st.integers(1, 3),
    "at": st.one_of(st.sampled_from(["edge", "start"]), st.integers(0, 50)),
    "optimizer": st.just("adam"),
    "run": st.sampled_from(["runs/one", "a b", "train"]),
    "form": st.sampled_from(["ema", "polyak"]),
    "folder": st.one_of(st.none(), st.text("ab, -'\"=", min_size=1, max_size=5)),
    "root": st.sampled_from(["runs", "train", "--lr", "a b", "none", "it's"]),
}


def values(option: Option, *, sweeps: bool) -> st.SearchStrategy[Any]:
    if option.choices:  # first: place has a basis that is one of two words
        one = st.sampled_from(option.choices)
    elif option.name in BY_NAME:
        one = BY_NAME[option.name]
    elif option.kind == "bool":
        one = st.booleans()
    elif option.kind == "text":
        # The name of a file, where one is asked for.
        return st.just("a b.txt" if option.required else option.default)
    else:
        one = SMALL if option.kind == "int" else POSITIVE
    if option.nullable and option.name not in BY_NAME:
        one = st.one_of(st.none(), one)
    if not (sweeps and option.sweepable):
        return one
    return st.one_of(one, st.lists(one, min_size=2, max_size=3, unique=True))


# Read here, not while examples are drawn: to import jax in a strategy would seed its numbers.
OPTIONS = {
    (name, variant): options_for(name, variant)
    for name in STAGES
    for variant in [*STAGES[name].variants] or [None]
}


@st.composite
def stages(draw: st.DrawFn) -> tuple[str, str | None, dict[str, Any]]:
    name, variant = draw(st.sampled_from(sorted(OPTIONS, key=str)))
    options = {
        option.name: draw(values(option, sweeps=True))
        for option in OPTIONS[name, variant]
        if option.required or draw(st.booleans())
    }
    if name == "rewind" and options.get("at") == "start":
        options["at"] = "edge"  # a branch's start is the step that is rewound to
    return name, variant, options


# Only plain data is drawn: beartype draws random numbers where a stage is made.
PARTS = st.lists(stages(), max_size=4)
NAMES = st.sampled_from(["pipe", "adam-edge", "A.b_1"])


def compose_parts(parts: list[tuple[str, str | None, dict[str, Any]]], name: str) -> Pipeline:
    return pipe(*(make_stage(*part) for part in parts), name=name)


@given(PARTS, NAMES)
def test_json_round_trip(parts: list[Any], name: str) -> None:
    pipeline = compose_parts(parts, name)
    assert Pipeline.from_json(pipeline.to_json()) == pipeline
    assert Pipeline.from_dict(json.loads(json.dumps(pipeline.to_dict()))) == pipeline


@example([("plot", None, {}), ("store", None, {})], "pipe")
@given(PARTS, NAMES)
def test_python_round_trip(parts: list[Any], name: str) -> None:
    pipeline = compose_parts(parts, name)
    names: dict[str, Any] = {"__name__": "not_main"}
    exec(pipeline.to_python(), names)
    assert names["pipeline"] == pipeline


@given(PARTS, NAMES)
def test_command_round_trip(parts: list[Any], name: str) -> None:
    pipeline = compose_parts(parts, name)
    import shlex

    from aeoskit_cli._cut import cut
    from aeoskit_cli._pipe import compose

    words = shlex.split(pipeline.to_command())
    assert words[:2] == ["aeoskit", "pipe"]
    if pipeline.stages:
        pieces, own = cut(words[2:], {"--name": True})
        assert compose(pieces, *own[1:]) == pipeline


def whole(**changes: Any) -> Pipeline:
    parts: dict[str, Any] = {
        "data": data("digits", examples=500),
        "model": model("mlp", width=64),
        "loss": loss("mse"),
        "optimizer": optimizer("adam", lr=1e-3),
        "track": track("preconditioned_sharpness", every=10),
        "train": train(100),
        **changes,
    }
    return pipe(*(part for part in parts.values() if part is not None))


def test_what_the_stages_declare() -> None:
    pipeline = whole(
        a=branch("freeze"),
        b=branch("switch", optimizer="momentum", lr=2, at="start"),
        store=store("here", checkpoints=False),
        plot=plot("advance"),
    )
    experiment = pipeline.experiment()
    assert experiment.data is not None
    assert experiment.data.settings["examples"] == 500
    assert experiment.model is not None
    assert (experiment.model.variant, experiment.model.seed) == ("mlp", 0)
    assert "seed" not in experiment.model.settings
    assert [probe.variant for probe in experiment.probes] == ["preconditioned_sharpness"]
    assert [(item.kind, item.name, item.at) for item in experiment.branches] == [
        ("freeze", "frozen", "edge"),
        ("switch", "momentum", 0),
    ]
    switched = experiment.branches[1].optimizer
    assert switched is not None
    assert switched.settings["lr"] == 2.0
    assert switched.settings["form"] == "ema"
    assert experiment.store is not None
    assert not experiment.store.checkpoints
    assert experiment.lanes() == ({},)


def test_array_leaves_are_lanes_and_the_rest_are_groups() -> None:
    pipeline = whole(
        model=model("mlp", width=[8, 16]),
        optimizer=optimizer("adam", lr=[1e-3, 3e-3], beta2=[0.9, 0.99]),
        train=train(100, batch=[16, None]),
    )
    axes = pipeline.experiment().sweep
    assert [(axis.name, axis.leaf) for axis in axes] == [
        ("width", False),
        ("lr", True),
        ("beta2", True),
        ("batch", False),
    ]
    groups = pipeline.groups()
    assert [group.values for group in groups] == [
        {"width": 8, "batch": 16},
        {"width": 8, "batch": None},
        {"width": 16, "batch": 16},
        {"width": 16, "batch": None},
    ]
    first = groups[0].pipeline.experiment()
    assert first.train is not None
    assert first.train.batch == 16
    assert first.lanes() == (
        {"lr": 1e-3, "beta2": 0.9},
        {"lr": 1e-3, "beta2": 0.99},
        {"lr": 3e-3, "beta2": 0.9},
        {"lr": 3e-3, "beta2": 0.99},
    )


def test_a_sweep_over_optimizers_gives_each_its_own_defaults() -> None:
    pipeline = whole(optimizer=optimizer(["adam", "rmsprop"], lr=[1e-3, 3e-3]))
    assert [group.values for group in pipeline.groups()] == [
        {"optimizer": "adam"},
        {"optimizer": "rmsprop"},
    ]
    found = [group.pipeline.experiment().optimizer for group in pipeline.groups()]
    assert [item.settings["beta2"] for item in found if item] == [0.999, 0.99]
    assert Pipeline.from_json(pipeline.to_json()) == pipeline
    with pytest.raises(UserError, match="eps"):
        optimizer(["adam", "momentum"], lr=1e-3, eps=1e-8)


def test_swept_options_of_one_name_get_distinct_coordinates() -> None:
    pipeline = whole(
        data=data("digits", seed=[0, 1]),
        model=model("mlp", seed=[2, 3]),
        optimizer=optimizer("adam", lr=[1e-3, 3e-3]),
        b=branch("switch", optimizer="momentum", lr=[1.0, 2.0]),
    )
    names = [axis.name for axis in pipeline.sweep()]
    assert names == ["data.seed", "model.seed", "lr", "branch.lr"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: optimizer("adma", lr=1), "did you mean 'adam'"),
        (lambda: optimizer("adam", lr=1, bta1=0.5), "did you mean 'beta1'"),
        (lambda: make_stage("modle", "mlp", {}), "did you mean 'model'"),
        (lambda: optimizer("adam"), "lacks lr"),
        (lambda: optimizer("adam", lr=0), "lr is 0: it must be positive"),
        (lambda: track("sharpness", overhead=0.0), "overhead is 0: it must be above 0 and at most"),
        (lambda: track("sharpness", overhead=11.0), "overhead is 11: it must be above 0 and at"),
        (lambda: track("flip_multiplier", overhead=0.2), "unknown option 'overhead'"),
        (lambda: optimizer("adam", lr=-1e-3), "lr is -0.001: it must be positive"),
        (lambda: optimizer("adam", lr=float("nan")), "lr is nan: give a finite number"),
        (lambda: optimizer("adam", lr=[1e-3, 0]), "lr is 0: it must be positive"),
        (lambda: optimizer("adam", lr=[1e-3, float("inf")]), "lr is inf"),
        (lambda: optimizer("adam", lr=[1e-3, 1e-3]), "names 0.001 twice"),
        (lambda: optimizer("adam", lr=[]), "empty list"),
        (lambda: optimizer("adam", lr="fast"), "lr is 'fast': give a number"),
        (lambda: optimizer("adam", lr=True), "lr is True"),
        (lambda: optimizer("adam", lr=1e-3, beta1=1), "below 1"),
        (lambda: optimizer("adam", lr=1e-3, beta2=-0.1), "at least 0"),
        (lambda: optimizer("momentum", lr=1, form="emma"), "one of ema, polyak"),
        (lambda: data("digits", examples=1798), "at most 1797"),
        (lambda: data("digits", label_noise=1.5), "between 0 and 1"),
        (lambda: data("markov", vocabulary=4097), "vocabulary is 4097"),
        (lambda: data("tokens", vocabulary=1), "between 2 and 2147483647"),
        # jax's keys would be those of seed 0.
        (
            lambda: model("mlp", seed=2**32),
            "it must be between 0 and 4294967295",
        ),
        (lambda: data("tokens", vocabulary=2**31), "2 and 2147483647"),
        (lambda: data("markov", concentration=0), "concentration is 0"),
        (lambda: model("mlp", scale=0), "scale is 0: it must be positive"),
        (lambda: model("transformer", layers=0), "layers is 0"),
        (lambda: model("transformer", size="gpt3"), "one of tiny, gpt2-small, 1b"),
        (lambda: train(0), "steps is 0: it must be at least 1"),
        (lambda: make_stage("train", None, {"steps": 1.5}), "steps is 1.5: give a whole number"),
        (lambda: train(10, batch=0), "batch is 0"),
        (lambda: train(10, mode="fast"), "one of auto, scan, host"),
        (lambda: branch("switch", optimizer="momentum", lr=-1), "branch switch: lr is -1"),
        (lambda: branch("freeze", at="egde"), "give a step, start, edge or threshold"),
        (
            lambda: rewind("runs/one", at="start"),
            "rewind: at is 'start': give a step, edge or threshold",
        ),
        (lambda: optimizer("bfgs", warmup=3), "unknown option 'warmup'"),
        (lambda: make_stage("model", ["mlp", "cnn"], {}), "only an optimizer's can be swept"),
        (lambda: make_stage("store", None, {"root": ["a", "b"]}), "cannot be swept"),
        (lambda: store(checkpoint_every=[10, 20]), "checkpoint_every is 10,20, but it cannot be"),
        (lambda: pipe(name="a/b"), "name is 'a/b'"),
    ],
)
def test_a_stage_refuses(make: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss": None}, "no stage 'loss'"),
        ({"train": None}, "no stage 'train'"),
        ({"again": train(10)}, "'train' appears twice"),
        ({"again": track("preconditioned_sharpness")}, "is tracked twice"),
        ({"train": train(5)}, "every is 10, but training has only 5 steps"),
        ({"train": train([100, 5])}, "every is 10, but training has only 5 steps"),
        ({"train": train(100, batch=501)}, "batch is 501, but the data has only 500"),
        ({"train": train(100, batch=[16, 501])}, "batch is 501"),
        ({"train": train(100, batch=16, microbatch=501)}, "microbatch is 501, but the data has"),
        ({"train": train()}, "train lacks steps: give --steps or --epochs"),
        ({"train": train(100, epochs=3)}, "steps is 100 and epochs is 3"),
        ({"train": train(epochs=3, batch=200)}, "every is 10, but training has only 6 steps"),
        ({"train": train(100, sampling="replacement")}, "sampling is replacement, but without a"),
        (
            {"track": track("sharpness", examples=501)},
            "track sharpness: examples is 501, but the data has only 500",
        ),
        (
            {"b": branch("switch", optimizer="momentum", lr=1, ratio=0.9, at=3)},
            "lr is 1 and ratio is 0.9",
        ),
        (
            {"b": branch("switch", optimizer="lion", ratio=0.9, at=3)},
            "lion is not one: give its lr",
        ),
        ({"b": branch("switch", optimizer="lbfgs", ratio=0.9, at=3)}, "lbfgs has no lr"),
        ({"b": branch("switch", optimizer="momentum", at=3)}, "lacks lr"),
        ({"track": track("test_error"), "b": branch("freeze")}, "no probe detects it"),
        ({"track": track("sharpness", k=10)}, "raise basis to 26"),
        (
            {"track": track("sharpness"), "b": branch("freeze", at="threshold")},
            "add `track preconditioned_sharp",
        ),
        ({"b": branch("freeze", name="a/b", at=3)}, "name is 'a/b', but it names a folder"),
        ({"b": branch("freeze", name="", at=3)}, "name is ''"),
        ({"b": branch("freeze", name="..", at=3)}, "name is '..'"),
        ({"model": model("cnn", depth=[1, 4])}, "model cnn: depth is 4"),
        ({"model": model("transformer", heads=3)}, "model transformer: heads is 3"),
        ({"data": data("tokens")}, "loss mse: the targets of data tokens are tokens"),
        (
            {
                "data": data("tokens"),
                "loss": loss("cross_entropy"),
                "model": model("mlp", width=[4, 8]),
            },
            "model mlp: the data are tokens",
        ),
        ({"model": model("transformer", layers=[1, 2])}, "model transformer: the data are rows"),
        (
            {
                "data": data("tokens", length=[8, 9]),
                "loss": loss("cross_entropy"),
                "model": model("transformer", context=8),
            },
            "model transformer: context is 8: the sequences have 9 tokens",
        ),
        ({"optimizer": optimizer("adamw", lr=[1e-3, 1.0], weight_decay=2.0)}, "lower either"),
        (
            {"b": branch("switch", optimizer="adamw", lr=1, weight_decay=3, at=3)},
            "lr 1 times weight_decay 3",
        ),
        ({"track": None, "b": branch("freeze")}, "at is edge, but no probe detects it"),
        ({"b": branch("freeze", at=100)}, "only 100 steps"),
        ({"b": branch("freeze"), "c": branch("freeze", at=3)}, "'frozen' is taken"),
        ({"b": branch("freeze", name="main")}, "'main' is taken"),
        (
            {"optimizer": optimizer("momentum", lr=0.1), "b": branch("freeze", at=3)},
            "branch frozen: freeze holds P, but optimizer momentum has none",
        ),
        ({"b": branch("switch", optimizer="sgdd", lr=1)}, "unknown variant 'sgdd'"),
        ({"b": branch("switch", optimizer="momentum", lr=1, beta2=0.9)}, "has no beta2"),
        ({"optimizer": optimizer("adam", lr=1e-3, correction="no")}, "optimizer adam: "),
    ],
)
def test_a_pipeline_refuses(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        whole(**changes).experiment()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda tree: tree.update(extra=1), "extra"),
        (lambda tree: tree["stages"][0].update(extra=1), "extra"),
        (lambda tree: tree["stages"][0]["options"].update(exmples=3), "examples"),
        (lambda tree: tree["stages"][0]["options"].update(examples="many"), "examples"),
        (lambda tree: tree["stages"][0].update(variant="digts"), "digits"),
        (lambda tree: tree["stages"][3]["options"].update(lr=-1.0), "positive"),
        (lambda tree: tree.update(name="../up"), "../up"),
        (lambda tree: tree.pop("stages"), "stages"),
    ],
)
def test_a_stored_pipeline_is_read_strictly(damage: Any, says: str) -> None:
    tree = whole().to_dict()
    damage(tree)
    with pytest.raises(UserError) as caught:
        Pipeline.from_dict(tree)
    assert says in str(caught.value)
    with pytest.raises(UserError, match="not a pipeline"):
        Pipeline.from_json("{")


def test_a_stored_pipeline_keeps_the_defaults_of_its_day() -> None:
    tree = whole().to_dict()
    tree["stages"][3]["defaults"]["beta1"] = 0.8
    pipeline = Pipeline.from_dict(tree)
    found = pipeline.experiment().optimizer
    assert found is not None
    assert found.settings["beta1"] == 0.8
    assert "--beta1 0.8" in pipeline.to_command()
    assert "beta1=0.8" in pipeline.to_python()


def test_options_come_from_signature_and_docstring() -> None:
    def draw(
        anything: object,
        lr: Any,
        *,
        width: int,
        rate: float = 1,
        hue: Literal["red", "blue"] = "red",
        frame: bool = True,
        limit: int | None = None,
        hook: object = print,
    ) -> None:
        """Draw.

        Args:
            width: How wide
                it is. In pixels.
            hue: The color.
        """

    found = {option.name: option for option in options_of(draw)}
    assert list(found) == ["width", "rate", "hue", "frame", "limit"]
    assert found["width"].required
    assert found["width"].help == "How wide it is"
    assert found["rate"].default == 1.0
    assert found["hue"].choices == ("red", "blue")
    assert (found["frame"].kind, found["frame"].default) == ("bool", True)
    assert found["limit"].nullable
    assert options_of(draw, positional=True, types={"lr": float})[0].name == "lr"


@pytest.mark.parametrize("stage", STAGES)
def test_every_variant_has_readable_options(stage: str) -> None:
    for variant in [*STAGES[stage].variants] or [None]:
        options = options_for(stage, variant)
        names = [option.name for option in options]
        assert len(set(names)) == len(names)
        # The command line's own flags may stand anywhere in a pipe.
        assert not {"json", "quiet", "help"} & set(names)


LINE_SEARCHES = ("bfgs", "lbfgs", "nonlinear_cg")


def test_every_optimizer_has_a_learning_rate() -> None:
    for variant in STAGES["optimizer"].variants:
        found = {option.name: option for option in options_for("optimizer", variant)}
        if variant in LINE_SEARCHES:
            assert "lr" not in found  # the search finds it
            continue
        # Those of optax have, for each, the rate at which `multiplier-edge` runs it.
        assert found["lr"].required or variant == "optax"
        assert found["lr"].kind == "float"


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_makes_a_pipeline_that_can_be_done(name: str) -> None:
    for pipeline in make_suite(name).values():
        assert pipeline.name.startswith(name)
        assert pipeline.experiment().probes
        assert Pipeline.from_json(pipeline.to_json()) == pipeline
    assert all(option.help for option in recipe_options(name))


def test_a_recipe_refuses() -> None:
    with pytest.raises(UserError, match="did you mean 'adam-edge'"):
        make_recipe("adam-egde")
    with pytest.raises(UserError, match="did you mean 'beta1'"):
        make_recipe("adam-edge", bta1=0.5)
    with pytest.raises(UserError, match="it must be positive"):
        make_recipe("adam-edge", lr=-1)
    with pytest.raises(UserError, match="cannot be swept"):
        make_recipe("advance", lr=[1e-3, 3e-3])


def test_a_recipe_takes_one_seed_and_says_why() -> None:
    option = {option.name: option for option in recipe_options("adam-edge")}["seed"]
    why = "seed is 0,1, but it cannot be swept, since it seeds both"
    with pytest.raises(UserError, match=why):
        make_recipe("adam-edge", seed=[0, 1])
    with pytest.raises(UserError, match=why):
        coerce(option, "0,1", where="adam-edge")


def test_a_basis_that_the_check_asks_for_is_enough() -> None:
    """The sentence names a basis that works, also for the warm start of the second measurement."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import lineax as lx

    from aeoskit.linalg import Lanczos, eigensolve

    k = 10
    whole(track=track("sharpness", k=k, basis=2 * k + 6)).experiment()

    def twice(key: Any) -> Any:
        operator = lx.MatrixLinearOperator(jnp.eye(40), lx.symmetric_tag)
        solver = Lanczos(basis=2 * k + 6)
        first = eigensolve(operator, solver, k=k, start=key, driver="compiled")
        return eigensolve(operator, solver, k=k, start=first.state, driver="compiled").values

    # The solver refuses a basis by its shape: tracing is enough.
    assert eqx.filter_eval_shape(twice, jax.random.key(0)).shape == (k,)


def test_microbatches_may_be_larger_than_a_batch() -> None:
    whole(train=train(100, batch=16, microbatch=100)).experiment()


def test_an_unpreconditioned_edge_needs_the_sharpness_alone() -> None:
    whole(
        optimizer=optimizer("gradient_descent", lr=0.1),
        track=track("sharpness"),
        b=branch("switch", optimizer="momentum", lr=1.0),
    ).experiment()


def test_every_option_has_a_help() -> None:
    for stage, kind in STAGES.items():
        for variant in kind.variants or [None]:
            assert [o.name for o in options_for(stage, variant) if not o.help] == []
