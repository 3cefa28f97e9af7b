"""The recipes e01 to e16 and suites: what they ask for, and one carried out on tiny data."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from aeoskit.record import read_run
from aeoskit_cli import main
from aeoskit_experiments import UserError
from aeoskit_experiments.execution import SilentListener, execute_suite
from aeoskit_experiments.pipelines import (
    Pipeline,
    data,
    loss,
    model,
    optimizer,
    pipe,
    plot,
    track,
    train,
)
from aeoskit_experiments.recipes import RECIPES, make_recipe, make_suite, recipe_options
from aeoskit_experiments.records import list_records

PAPER = sorted(name for name in RECIPES if name.startswith("e") and name[1:3].isdigit())
SUITES = ("e04-architectures", "e05-optimizers", "e13-epsilon", "e16-realized")


def tiny(lr: float, steps: int = 6) -> Pipeline:
    return pipe(
        data("quadratic", dimension=3, outputs=2, condition=4.0),
        model("linear"),
        loss("mse"),
        optimizer("gradient_descent", lr=lr),
        track("sharpness", every=2, solver="dense"),
        train(steps),
    )


def test_every_experiment_has_a_recipe_in_two_sizes() -> None:
    assert [name.split("-")[0] for name in PAPER] == [f"e{number:02d}" for number in range(1, 17)]
    for name in PAPER:
        options = {option.name: option for option in recipe_options(name)}
        assert options["size"].choices == ("small", "paper")
        assert "seed" in options


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_size_is_another_setting(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where CIFAR-10 and WikiText are not, there is a setting all the same: it is refused later.
    monkeypatch.setenv("AEOSKIT_DATA", str(tmp_path))
    small, paper = make_suite(name), make_suite(name, size="paper")
    assert small.keys() == paper.keys() or name in SUITES
    assert all(pipeline not in small.values() for pipeline in paper.values())
    for case, pipeline in paper.items():
        assert Pipeline.from_json(pipeline.to_json()) == pipeline, case


def test_the_settings_of_the_paper() -> None:
    stages = {stage.stage: stage for stage in make_recipe("e01-learning-rate", size="paper").stages}
    assert stages["data"].variant == "cifar10"
    shape = stages["model"].settings
    assert (shape["width"], shape["depth"], shape["activation"]) == (200, 5, "tanh")
    adam = stages["optimizer"].settings
    assert adam["lr"] == (3e-5, 1e-4, 3.2e-4, 1e-3)
    assert (adam["beta1"], adam["beta2"], adam["eps"]) == (0.9, 0.999, 1e-7)
    momenta = make_recipe("e02-momentum", size="paper").stages[3].settings
    assert (momenta["lr"], momenta["beta1"]) == (1e-4, (0.64, 0.814, 0.903, 0.95))
    figure8 = make_recipe("e07-advance", size="paper").stages[3].settings
    assert (figure8["lr"], figure8["beta2"]) == ((5e-5, 1e-4, 2e-4, 4e-4), 0.99)


def test_the_paper_size_runs_on_data_of_cifars_shape() -> None:
    for dataset in ("mixture", "patches"):
        pipeline = make_recipe("e01-learning-rate", size="paper", dataset=dataset, examples=20)
        assert pipeline.experiment().data.build().inputs.shape == (20, 32 * 32 * 3)


@pytest.mark.parametrize("name", sorted({*RECIPES} - {"e15-theory", "threshold-table"}))
def test_every_recipe_on_images_takes_other_images(name: str) -> None:
    """Those two are about quadratics; in E4 the sequences stay."""
    for dataset in ("fashion_mnist", "patches"):
        for case, pipeline in make_suite(name, dataset=dataset, examples=600).items():
            stage = pipeline.stages[0]
            if case not in ("lstm-tokens", "transformer", "transformer-text", "encoder_decoder"):
                assert (stage.variant, stage.settings["examples"]) == (dataset, 600)
            pipeline.experiment()


def test_labels_are_random_but_those_of_large_sets() -> None:
    noise = {
        (dataset, size): make_recipe("e01-learning-rate", dataset=dataset, size=size)
        .stages[0]
        .settings.get("label_noise", 0)
        for dataset in ("mnist5k", "fashion_mnist", "patches", "cifar10", "mixture")
        for size in ("small", "paper")
    }
    assert {dataset for (dataset, _), share in noise.items() if share == 0} == {
        "cifar10",
        "mixture",
    }
    assert {share for share in noise.values() if share} == {0.4}
    assert make_recipe("e01-learning-rate", dataset="fashion_mnist").stages[0].options == {
        "seed": 0,
        "label_noise": 0.4,
        "examples": 5000,
    }


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_several_runs(name: str) -> None:
    suite = make_suite(name)
    assert len(suite) > 3
    assert {pipeline.name for pipeline in suite.values()} == {f"{name}-{case}" for case in suite}
    with pytest.raises(UserError, match=f"recipe {name} is {len(suite)} runs here"):
        make_recipe(name)


def test_one_case_of_a_suite_is_a_recipe_like_another() -> None:
    assert make_recipe("e05-optimizers", optimizers="adam").name == "e05-optimizers-adam"
    with pytest.raises(UserError, match="unknown optimizer 'adan'"):
        make_suite("e05-optimizers", optimizers="adan")
    with pytest.raises(UserError, match=r"unknown architecture 'mpl'.*mlp"):
        make_suite("e04-architectures", architecture="mpl")


def test_a_rewound_recipe_refuses_what_the_other_run_decided() -> None:
    for name in ("e03-frozen", "e09-branches"):
        for option, value in {"lr": 0.1, "every": 7, "seed": 4, "examples": 50}.items():
            with pytest.raises(UserError, match=f"{option} is {value}, but the run there is rewo"):
                make_recipe(name, run="there", **{option: value})
        stages = {stage.stage: stage for stage in make_recipe(name, run="there").stages}
        assert stages["rewind"].settings["run"] == "there"
        assert not {"data", "train"} & stages.keys()
    stages = make_recipe("e09-branches", run="there", steps=50, stop_loss=0.2).stages
    assert stages[1].options == {"steps": 50, "stop_loss": 0.2}


def test_the_largest_batch_is_all_examples_and_no_batch_is_larger() -> None:
    def sizes(**options: Any) -> Any:
        stages = {stage.stage: stage for stage in make_recipe("e06-batch-size", **options).stages}
        return stages["train"].settings["batch"]

    assert sizes() == (16, 64, 250, 500)
    assert sizes(examples=100) == (16, 50, 100)
    assert sizes(dataset="mnist5k") == (16, 64, 256, 2500, 5000)
    assert sizes(size="paper", dataset="digits") == (250, 500)
    assert sizes(batch=[8, 100], examples=100) == (8, 100)


@pytest.mark.parametrize(
    ("options", "units", "rate"),
    [
        ({}, {"width": 30}, 2.0),
        ({"architecture": "cnn"}, {"channels": 16}, 2.0),
        ({"dataset": "mnist5k"}, {"width": 100}, 0.25),
        ({"dataset": "fashion_mnist"}, {"width": 100}, 0.25),
        ({"dataset": "mnist5k", "lr": 1.0}, {"width": 100}, 1.0),
        ({"dataset": "mnist5k", "architecture": "cnn"}, {"channels": 48}, 2.0),
        ({"size": "paper"}, {"width": 200}, 2.0),
    ],
)
def test_momentum_alone_has_a_narrow_network_on_digits(
    options: dict[str, Any], units: dict[str, int], rate: float
) -> None:
    stages = {stage.stage: stage.settings for stage in make_recipe("e08-blocked", **options).stages}
    assert stages["model"].items() >= units.items()
    assert stages["optimizer"]["lr"] == rate
    # Adam's, which is rewound too, is the wide one everywhere.
    options = {name: value for name, value in options.items() if name != "lr"}
    for name in ("e07-advance", "e09-branches"):
        (model,) = [s.settings for s in make_recipe(name, **options).stages if s.stage == "model"]
        wide = {"channels": 48} if "channels" in units else {"width": max(100, *units.values())}
        assert model.items() >= wide.items()


def test_test_rows_of_mnist_are_not_trained_on() -> None:
    stages = make_recipe("e12-generalization", dataset="mnist5k").stages
    assert (stages[0].settings["examples"], stages[0].settings["test"]) == (4000, 1000)


def test_the_papers_epsilon_is_that_of_every_optimizer_that_adds_it_to_a_root() -> None:
    found = {
        case: pipeline.stages[3].settings["eps"]
        for case, pipeline in make_suite("e05-optimizers", size="paper").items()
    }
    assert {case for case, eps in found.items() if eps != 1e-7} == {"adabelief", "adafactor"}


def test_a_suite_leaves_a_folder_for_each_case_and_one_picture(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = execute_suite({"slow": tiny(0.1), "fast": tiny(0.9)}, "pair", root=runs)
    assert (outcome.status, outcome.exit_code) == ("finished", 0)
    assert [row["case"] for row in outcome.summary["runs"]] == ["slow", "fast"]
    assert {path.name for path in outcome.folder.iterdir()} == {
        "slow",
        "fast",
        "suite.json",
        "pair.png",
        "pair.pdf",
    }
    stored = json.loads((outcome.folder / "suite.json").read_text())
    for case, lr in (("slow", 0.1), ("fast", 0.9)):
        run = read_run(outcome.folder / case)
        assert stored["cases"][case] == json.loads(json.dumps(run.summary))
        # The threshold is 2/lr, and the quadratic's sharpness 1.
        assert outcome.outcomes[case].summary["runs"][0]["ratio"] == pytest.approx(lr / 2, rel=1e-3)
    # What is there already is not overwritten, nor found out between two cases.
    (runs / "half" / "fast").mkdir(parents=True)
    with pytest.raises(UserError, match="exists already") as caught:
        execute_suite({"slow": tiny(0.1), "fast": tiny(0.9)}, "pair", folder=runs / "half")
    assert "\n" not in str(caught.value)
    assert not (runs / "half" / "slow").exists()
    assert main(["show", str(outcome.folder)]) == 0
    shown = "".join(capsys.readouterr().out.split())  # long paths are broken
    assert all(str(outcome.folder / case) in shown for case in ("slow", "fast"))
    (outcome.folder / "suite.json").write_text("{}")
    assert main(["show", str(outcome.folder)]) == 2
    assert "is not that of a suite" in capsys.readouterr().err
    again = execute_suite({"slow": tiny(0.1)}, "pair", root=runs)
    assert again.folder != outcome.folder


def test_each_optimizer_has_its_decays_side_by_side() -> None:
    suite = make_suite("e16-realized", beta2=[0.5, 0.9], steps=40)
    swept = {case for case, x in suite.items() if x.experiment().lanes()[0].keys() == {"beta2"}}
    assert swept == {"adam", "adamw", "nadam", "rmsprop", "adabelief", "padam", "amsgrad"}
    assert {*suite} - swept == {
        "adafactor",
        "adagrad",
        "shampoo",
        "momentum",
        "gradient_descent",
    }
    for pipeline in suite.values():
        assert pipeline.stages[3].settings["warmup"] == 20
    with pytest.raises(UserError, match="unknown optimizer 'adan'"):
        make_suite("e16-realized", optimizers="adan")


def test_a_suite_over_beta2_has_a_table_and_a_picture_of_it(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def case(name: str, **settings: Any) -> Pipeline:
        return pipe(
            data("quadratic", dimension=3, outputs=2, condition=4.0),
            model("linear"),
            loss("mse"),
            optimizer(name, lr=0.1, **settings),
            track("preconditioned_sharpness", every=20, solver="dense"),
            train(120),
            plot("edge" if name == "adagrad" else "beta2"),
        )

    suite = {
        "rmsprop": case("rmsprop", beta2=(0.5, 0.99)),
        "adam": case("adam", beta2=0.9),
        "adagrad": case("adagrad"),
    }
    assert "beta2" not in suite["adam"].experiment().lanes()[0]
    outcome = execute_suite(suite, "edges", root=runs)
    assert [path.suffix for path in outcome.figures] == [".png", ".pdf"]
    rows = outcome.summary["rows"]
    assert [(row["case"], row["optimizer"], row["beta2"], row["lr"]) for row in rows] == [
        ("rmsprop", "rmsprop", 0.5, 0.1),
        ("rmsprop", "rmsprop", 0.99, 0.1),
        ("adam", "adam", 0.9, 0.1),
        ("adagrad", "adagrad", None, 0.1),
    ]
    for row, run in zip(rows, outcome.summary["runs"], strict=True):
        for key in ("ratio", "zeta", "zeta_of_sums", "zeta_before", "state"):
            assert row[key] == run[key]
    # RMSProp oscillates about the minimum with a step that does not shrink.
    assert rows[0]["state"] == rows[1]["state"] == "at the edge"
    warnings = outcome.summary["warnings"]
    assert [text.split(" P ")[0] for text in warnings] == ["at beta2 = 0.5", "at beta2 = 0.9"]
    assert main(["show", str(outcome.folder)]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["optimizer", "β₂", "lr", "median", "median", "before", "state"] in shown
    assert ["rmsprop", "0.5", "0.1"] in [words[:3] for words in shown]
    assert ["adagrad", "–", "0.1"] in [words[:3] for words in shown]


def test_a_suite_is_checked_before_any_case_runs(tmp_path: Path) -> None:
    wrong = tiny(0.1, steps=1)
    with pytest.raises(UserError, match="every is 2, but training has only 1 steps"):
        execute_suite({"right": tiny(0.1), "wrong": wrong}, "pair", root=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_suite_says_which_case_it_is_at_and_keeps_what_was_done(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs / "heard"

    class Heard(SilentListener):
        """Remembers what it hears, finds the suite in lists, and stops its second case."""

        heard: ClassVar[list[str]] = []

        def started(self, what: str, steps: int) -> None:
            self.heard.append(what)
            listed = [(x.kind, x.status) for x in list_records(runs) if x.folder == str(folder)]
            assert listed == [("suite", "running")]
            assert main(["show", str(folder)]) == 0
            cases = json.loads((folder / "suite.json").read_text())["cases"]
            assert list(cases) == (["slow"] if what.startswith("fast") else [])
            if what.startswith("fast"):
                raise KeyboardInterrupt

        def noted(self, message: str) -> None:
            self.heard.append(message)

    monkeypatch.setattr("aeoskit.figures.cases_figure", lambda records: 1 / 0)
    suite = {"slow": tiny(0.1), "fast": tiny(0.9), "last": tiny(0.5)}
    outcome = execute_suite(suite, "pair", folder=folder, listener=Heard())
    assert Heard.heard[:2] == ["slow: main", "fast: main"]
    assert Heard.heard[-1].startswith("no figure was drawn: ZeroDivisionError")
    assert (outcome.status, outcome.exit_code, outcome.figures) == ("interrupted", 130, [])
    stored = json.loads((outcome.folder / "suite.json").read_text())
    assert (stored["status"], stored["figure"], list(stored["cases"])) == (
        "interrupted",
        None,
        ["slow"],
    )


def test_a_suite_that_fails_says_so_and_leaves_nothing_if_nothing_ran(tmp_path: Path) -> None:
    class Fails(SilentListener):
        def started(self, what: str, steps: int) -> None:
            if what.startswith(self.case):
                raise RuntimeError("out of luck")

        def __init__(self, case: str):
            self.case = case

    suite = {"slow": tiny(0.1), "fast": tiny(0.9)}
    place = tmp_path / "new" / "pair"
    with pytest.raises(RuntimeError, match="out of luck"):
        execute_suite(suite, "pair", folder=place, listener=Fails("slow"))
    assert not (tmp_path / "new").exists()
    with pytest.raises(RuntimeError, match="out of luck"):
        execute_suite(suite, "pair", folder=place, listener=Fails("fast"))
    (found,) = list_records(tmp_path / "new")
    assert (found.kind, found.status) == ("suite", "failed")
    assert (place / "slow" / "summary.json").exists()


def test_data_that_only_a_later_case_refuses_are_reported_before_the_first_runs(
    tmp_path: Path,
) -> None:
    names = ["mlp", "transformer-text"]
    suite = make_suite("e04-architectures", architecture=names, examples=1700, steps=20)
    with pytest.raises(UserError, match="so give at most") as caught:
        execute_suite(suite, "two", folder=tmp_path / "none")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_settings_that_a_recipe_itself_cannot_take_are_refused() -> None:
    with pytest.raises(UserError, match="margin is 2: give a fraction of the threshold"):
        make_recipe("e15-theory", margin=2.0)
    # Images of 28 pixels are halved twice, others three times.
    for dataset, depth in (("mnist5k", 2), ("fashion_mnist", 2), ("patches", 3), ("digits", 3)):
        pipeline = make_recipe("e07-advance", architecture="cnn", dataset=dataset)
        assert pipeline.stages[1].settings["depth"] == depth
        cnn = make_recipe("e04-architectures", size="paper", architecture="cnn", dataset=dataset)
        assert cnn.stages[1].settings["depth"] == depth
