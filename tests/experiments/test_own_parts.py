"""Parts of one's own: found by the name that the user typed, kept with the run, and run again only
as they were."""

import inspect
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeoskit.probes import AbstractProbe
from aeoskit.record import create_run, read_run
from aeoskit_cli import main
from aeoskit_experiments import execute, parts, rerun, sweep
from aeoskit_experiments.adapters import own_data, own_loss, own_model, own_optimizer, own_probe
from aeoskit_experiments.data import Dataset
from aeoskit_experiments.parts import Code, find_part, load_part, part_of
from aeoskit_experiments.pipelines import (
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
    rewind,
    store,
    track,
    train,
    variants_of,
)
from aeoskit_experiments.planning import PlanSettings
from aeoskit_experiments.planning._request import with_settings
from aeoskit_experiments.recipes import make_recipe, recipe_options
from aeoskit_experiments.starters import STARTERS, write_starter

SOURCE = '''
"""Parts of one's own."""

from typing import Annotated, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax

from aeoskit.probes import AbstractProbe
from aeoskit_experiments.pipelines import data, loss, model, optimizer, pipe, track, train


def curve(n: Annotated[int, msgspec.Meta(ge=4)] = 20, kind: Literal["sin", "cos"] = "sin"):
    """Points of a curve.

    Args:
        n: How many.
    """
    x = np.linspace(-1, 1, n)[:, None]
    return x, getattr(np, kind)(3 * x)


class Net(eqx.Module):
    """A small net."""

    first: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, dataset, *, width: int = 4, key):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(dataset.inputs.shape[1], width, key=one)
        self.last = eqx.nn.Linear(width, dataset.num_classes, key=two)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


def huber(outputs, targets, *, delta: float = 1.0):
    """The Huber loss."""
    error = jnp.abs(outputs - targets)
    return jnp.mean(jnp.where(error < delta, error**2 / 2, delta * (error - delta / 2)), axis=-1)


def my_adam(lr: float = 1e-2):
    """Adam of optax."""
    return optax.adam(lr)


def clipped(lr: float = 1e-2):
    """A transformation that nobody knows."""
    return optax.GradientTransformation(
        lambda params: optax.EmptyState(),
        lambda g, s, p=None: (jax.tree.map(lambda x: -lr * jnp.clip(x, -1, 1), g), s),
    )


def descent(lr: float = 1e-2, beta: float = 0.5):
    """An update map with a gradient of its own: heavy ball on the mean squared error."""

    def init(params):
        return jax.tree.map(jnp.zeros_like, params)

    def update_map(params, velocity, batch):
        inputs, targets = batch

        def mean(params):
            module = eqx.combine(params.arrays, params.rest)
            return 0.5 * jnp.mean(jnp.sum((jax.vmap(module)(inputs) - targets) ** 2, -1))

        grads = jax.grad(mean)(params)
        velocity = jax.tree.map(lambda v, g: beta * v - lr * g, velocity, grads)
        return jax.tree.map(jnp.add, params, velocity), velocity

    return init, update_map


class Norm(AbstractProbe):
    """The norm of the parameters."""

    every: int = eqx.field(static=True, default=5)

    @property
    def measures(self):
        return ("norm",)

    @property
    def solves(self):
        return False

    def init(self, params, key):
        return None

    def measure(self, context, state):
        squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(context.params)]
        return {"norm": jnp.sqrt(sum(squares))}, state


def mine(steps: int = 4, lr: float = 1e-2):
    """A recipe of one's own.

    Args:
        steps: How long.
    """
    return pipe(
        data("./own.py:curve"), model("./own.py:Net"), loss("mse"), optimizer("adam", lr=lr),
        train(steps),
    )


NUMBER = 3
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `own.py` in it, the current one; no code was run here before."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "own.py").write_text(SOURCE)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start as a new process does, which knows nothing that the user typed."""
    monkeypatch.setattr(parts, "_trusted", set())
    monkeypatch.setattr(parts, "_objects", {})


def whole(**changes: Any) -> Pipeline:
    stages: dict[str, Any] = {
        "data": data("./own.py:curve", n=12),
        "model": model("./own.py:Net", width=3),
        "loss": loss("./own.py:huber", delta=0.5),
        "optimizer": optimizer("./own.py:my_adam", lr=3e-2),
        "track": track("preconditioned_sharpness", every=2),
        "norm": track("./own.py:Norm", every=2),
        "train": train(6, chunk=3),
        **changes,
    }
    return pipe(*(stage for stage in stages.values() if stage is not None))


def test_a_run_of_own_parts_is_recorded_and_repeated(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = execute(whole(), root=own / "runs")
    stored = json.loads((outcome.folder / "pipeline.json").read_text())
    sources = [code for stage in stored["stages"] for code in stage.get("code", {}).values()]
    assert len(sources) == 5
    assert all(code["source"] == SOURCE for code in sources)
    (copy,) = (outcome.folder / "code").iterdir()
    assert copy.read_text() == SOURCE
    assert outcome.summary["runs"][0]["optimizer"] == "my_adam"

    # The file is another one by now; the run is not.
    (own / "own.py").write_text(SOURCE.replace("jnp.tanh", "jax.nn.relu"))
    forget(monkeypatch)
    monkeypatch.chdir(own.parent)
    _, comparison = rerun(outcome.folder)
    assert comparison["identical"], comparison["sentence"]


def stored(pipeline: Pipeline, folder: Path) -> str:
    create_run(
        folder.parent, "x", pipeline=pipeline.to_dict(), environment={}, folder=folder
    ).close({})
    return str(folder)


def test_show_says_where_the_source_is_and_whether_it_changed(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored(whole(), own / "runs" / "named")
    assert main(["show", folder]) == 0
    out = capsys.readouterr().out
    assert "model ./own.py:Net" in out
    assert f"{own / 'own.py'} has not changed" in out
    assert f"aeoskit rerun {folder} runs this source again" in out
    (own / "own.py").write_text(SOURCE + "# later\n")
    assert main(["show", folder]) == 0
    assert f"{own / 'own.py'} has changed since" in capsys.readouterr().out
    assert main(["show", folder, "--json"]) == 0
    (part, *_) = json.loads(capsys.readouterr().out)["own_parts"].values()
    assert part["changed"]
    assert part["source"].startswith(f"{folder}/code/{part['sha256'][:8]}")


def test_a_function_typed_into_python_is_shown_as_no_command(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored(whole(optimizer=optimizer(lambda: optax.sgd(0.1))), own / "runs" / "typed")
    assert main(["show", folder]) == 0
    out = capsys.readouterr().out
    assert "aeoskit pipe" not in out
    assert "made in Python" in out
    assert "put the functions at the top of a file" in out
    assert main(["show", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["command"] is None
    assert found["python"] is None


def test_code_that_came_as_data_runs_only_if_it_is_allowed(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = execute(whole(track=None, norm=None), root=own / "runs")
    forget(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another user's"))
    stored = json.loads((outcome.folder / "pipeline.json").read_text())

    asked: list[str] = []

    def refuse(reference: str, code: Code) -> bool:
        asked.append(reference)
        return False

    with monkeypatch.context() as patched:
        # To look at it is not to run it.
        patched.setattr(parts, "_execute", lambda code: pytest.fail("code was run"))
        looked_at = Pipeline.from_dict(stored)
        assert "./own.py:Net --width 3" in looked_at.to_command()
        with pytest.raises(UserError, match=r"not run here before .*--allow-code"):
            looked_at.experiment()
        with pytest.raises(UserError, match="--allow-code"):
            rerun(outcome.folder)
        with pytest.raises(UserError, match="--allow-code"):
            rerun(outcome.folder, allow_code=refuse)
    assert asked == ["./own.py:curve"]
    assert rerun(outcome.folder, allow_code=True)[1]["identical"]
    # From then on, it is known.
    forget(monkeypatch)
    Pipeline.from_dict(stored, allow_code=False).experiment()


def test_a_source_that_is_not_what_its_hash_says_is_refused(own: Path) -> None:
    code = find_part("./own.py:Net").code
    forged = Code(code.file, code.sha256, code.source + "\nNet = 1\n")
    with pytest.raises(UserError, match="does not match its SHA-256"):
        parts.trust("./own.py:Net", forged)
    with pytest.raises(UserError, match="have not run here before"):
        load_part("./own.py:Net", forged)


def test_any_name_of_an_installed_module_needs_to_be_typed(own: Path) -> None:
    """A pipeline from elsewhere may not call what is installed here: `os:system`, say."""
    code = Code(os.__file__, parts._read(Path(os.__file__)).sha256, Path(os.__file__).read_text())
    stage = {"stage": "model", "variant": "os:system", "options": {"command": "true"}}
    stored = {"stages": [{**stage, "code": {"os:system": vars_of(code)}}]}
    with pytest.raises(UserError, match="not run here before"):
        Pipeline.from_dict(stored, allow_code=False)
    declared = Pipeline.from_dict(stored).declared()
    with pytest.raises(UserError, match="not run here before"):
        _ = declared.model.function


def stored_net(**changes: str) -> dict[str, Any]:
    """A pipeline as data, with an own model, of which an attacker changed something."""
    stage = pipe(model("./own.py:Net")).to_dict()["stages"][0]
    (code,) = stage["code"].values()
    reference = changes.pop("reference", "./own.py:Net")
    return {
        "stages": [{**stage, "variant": reference, "code": {reference: {**code, **changes}}}],
    }


def test_a_reference_without_its_source_is_looked_up_for_no_one(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = stored_net()
    del stored["stages"][0]["code"]
    switch = pipe(branch("switch", optimizer="./own.py:my_adam", lr=0.1, at=3)).to_dict()
    del switch["stages"][0]["code"]
    forget(monkeypatch)
    monkeypatch.setattr(parts, "_execute", lambda code: pytest.fail("code was run"))
    for value in (stored, switch):
        for allow in (None, False, True):
            with pytest.raises(UserError, match="comes without its source"):
                Pipeline.from_dict(value, allow_code=allow)


def test_what_is_trusted_is_what_was_shown(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def allow(reference: str, code: Code) -> bool:
        shown.append(code.source)
        return True

    forged = stored_net(source="harmless = 1")
    newline = stored_net(reference="./own.py:Net\nabc /tmp/x:y")
    elsewhere = stored_net(file="/elsewhere/own.py")
    forget(monkeypatch)
    with pytest.raises(UserError, match="does not match its SHA-256"):
        Pipeline.from_dict(forged, allow_code=allow)
    with pytest.raises(UserError, match="characters that cannot be printed"):
        Pipeline.from_dict(newline, allow_code=allow)
    assert shown == []
    # A source finds what is beside its file, so that another file is another part.
    with pytest.raises(UserError, match="have not run here before"):
        Pipeline.from_dict(elsewhere, allow_code=False)


def test_a_rewound_run_brings_its_source(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = execute(whole(store=store(checkpoint_every=3)), root=own / "runs").folder
    (own / "own.py").unlink()
    forget(monkeypatch)
    # In a new process of the same user: the source is known, though its file is gone.
    again = pipe(rewind(run, at=3), train(7))
    assert execute(again, root=own / "runs").status == "finished"
    forget(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(own / "another user's"))
    with pytest.raises(UserError, match="have not run here before"):
        execute(again, root=own / "runs")
    with pytest.raises(UserError, match="have not run here before"):
        sweep(pipe(rewind(run, at=3), train([7, 8])), root=own / "runs", workers=1)
    assert not (own / "another user's").exists()


def test_functions_of_one_name_and_source_are_two_parts(own: Path) -> None:
    """Closures of one factory, and functions that were defined again, as in a notebook."""

    def scaled(by: float) -> Any:
        return lambda outputs, targets: by * jnp.mean((outputs - targets) ** 2, -1)

    one, other = loss(scaled(1.0)), loss(scaled(100.0))
    assert one.variant != other.variant
    assert loss(parts.load_part(one.variant, one.sources[one.variant])).variant == one.variant
    first = []
    for pipeline in [whole(loss=stage, norm=None, track=None) for stage in (one, other)]:
        folder = execute(pipeline, root=own / "runs").folder
        first.append(float(read_run(folder).metrics["loss"].values.ravel()[0]))
    assert first[1] == pytest.approx(100 * first[0], rel=1e-4)


def test_a_probe_measures_what_it_says(own: Path) -> None:
    (own / "wrong.py").write_text(SOURCE.replace('return {"norm":', 'return {"size":'))
    with pytest.raises(ValueError, match="declares the measurements"):
        execute(whole(norm=track("./wrong.py:Norm", every=2)), root=own / "runs")
    with pytest.raises(UserError, match="every is 0: a period is"):
        execute(whole(norm=track("./own.py:Norm", every=0)), root=own / "runs")


def test_a_plan_uses_the_source_that_it_was_given(own: Path) -> None:
    pipeline = whole(norm=None)
    (own / "own.py").write_text(SOURCE.replace("width: int = 4", "width: int = 400"))
    settings = with_settings(pipeline, PlanSettings(microbatch=4), "float32")
    assert settings.code() == pipeline.code()


def test_names_of_probes_differ(own: Path) -> None:
    (own / "other.py").write_text(SOURCE)
    with pytest.raises(UserError, match="Norm is tracked twice"):
        whole(track=track("./other.py:Norm")).declared()
    (own / "loss.py").write_text(SOURCE.replace("class Norm", "class loss"))
    with pytest.raises(UserError, match="loss is always measured"):
        whole(track=track("./loss.py:loss")).declared()


def vars_of(code: Code) -> dict[str, str]:
    return {"file": code.file, "sha256": code.sha256, "source": code.source}


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("./own.py:Nett", "unknown name 'Nett' of ./own.py: did you mean 'Net'?"),
        ("./onw.py:Net", "there is no file './onw.py': did you mean 'own.py'?"),
        ("onw:Net", "no module 'onw' is installed, nor is there a onw.py .* did you mean 'own'?"),
        ("./own.py:", "lacks the part's name"),
        ("./own.py:NUMBER", "is a int: name a function or a class"),
        ("math:sqrt", "has no Python source to store"),
        ("python:f", "was typed into Python"),
        ("./broken.py:Net", "ZeroDivisionError"),
        ("./needy.py:Net", "ModuleNotFoundError.*install what it imports"),
    ],
)
def test_a_reference_to_nothing_is_one_sentence(own: Path, reference: str, says: str) -> None:
    (own / "broken.py").write_text("1 / 0")
    (own / "needy.py").write_text("import own")
    with pytest.raises(UserError, match=says) as caught:
        find_part(reference)
    assert "\n" not in str(caught.value)


def test_a_module_is_looked_for_among_what_is_installed_first(own: Path) -> None:
    (own / "json.py").write_text("def loads(): ...")
    assert find_part("json:loads").function is json.loads
    assert find_part("own:Net").function is find_part("./own.py:Net").function


def test_options_come_from_the_signature(own: Path) -> None:
    found = {option.name: option for option in options_for("data", "./own.py:curve")}
    assert [*found] == ["n", "kind"]
    assert found["n"].help == "How many"
    assert [option.name for option in options_for("model", "./own.py:Net")] == ["width", "seed"]
    assert [option.name for option in options_for("loss", "./own.py:huber")] == ["delta"]
    assert [option.name for option in recipe_options("./own.py:mine")] == ["steps", "lr"]
    with pytest.raises(UserError, match=r"data ./own.py:curve: n is 3: it must be at least 4"):
        data("./own.py:curve", n=3)
    with pytest.raises(UserError, match="kind is 'sine': it is one of"):
        data("./own.py:curve", kind="sine")
    with pytest.raises(UserError, match="unknown option 'widht' of model"):
        model("./own.py:Net", widht=3)


def test_a_recipe_of_ones_own(own: Path) -> None:
    pipeline = make_recipe("./own.py:mine", steps=5, lr="3e-3")
    assert pipeline.name == "mine"
    assert pipeline.experiment().train.steps == 5
    with pytest.raises(UserError, match="returned a tuple: return the value of pipe"):
        make_recipe("./own.py:curve")


def test_a_mistake_in_own_code_is_one_sentence(own: Path) -> None:
    wrong = SOURCE.replace("self.first(x)", "self.first(x[None])").replace(
        "        squares = [", "        raise KeyError('no')\n        squares = ["
    )
    (own / "wrong.py").write_text(wrong)
    for change in (
        {"model": model("./wrong.py:Net")},
        {"norm": track("./wrong.py:Norm", every=2)},
    ):
        with pytest.raises(UserError, match=r"^wrong.py, line \d+, in \w+: \w+Error: ") as caught:
            execute(whole(**change), root=own / "runs")
        assert "\n" not in str(caught.value)


def test_a_suite_of_ones_own_has_a_folder_of_its_name(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "suite.py").write_text(
        SOURCE + "\ndef both_ways():\n    return {'one': mine(2), 'two': mine(3)}\n"
    )
    assert main(["run", "./suite.py:both_ways", "--quiet", "--json"]) == 0
    folder = Path(json.loads(capsys.readouterr().out)["folder"])
    assert folder.name.startswith("both-ways-")
    assert ":" not in folder.name


def test_python_hands_over_the_function_itself(own: Path) -> None:
    """A name at the top of a file can be found again; another function runs here alone."""
    by_name = model(find_part("./own.py:Net").function, width=5)
    assert isinstance(by_name.variant, str)
    assert by_name.variant.endswith(":Net")

    def local(lr: float = 0.1):
        return optax.sgd(lr)

    pipeline = whole(optimizer=optimizer(local, lr=0.2), norm=None)
    outcome = execute(pipeline, root=own / "runs")
    assert outcome.summary["runs"][0]["optimizer"] == "local"
    stage = optimizer(local)
    code = stage.sources["python:local"]
    assert "optax.sgd(lr)" in code.source
    parts._objects.clear()
    with pytest.raises(UserError, match="was typed into Python, where other processes"):
        load_part("python:local", code)


def test_a_part_at_the_top_of_an_importable_module_is_named_by_it() -> None:
    part = part_of(optax.adam)
    assert part.reference.endswith(":adam")
    assert part.reference.startswith("optax.")


def test_what_is_no_variant_is_one_sentence() -> None:
    """In a process without type checks, which would catch it here."""
    code = "from aeoskit_experiments.pipelines import model; model(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UserError: stage 'model' got 3 as its variant: give a name" in done.stderr


def test_an_unknown_threshold_is_reported(own: Path) -> None:
    asking = whole(optimizer=optimizer("./own.py:clipped"), norm=None)
    whole_reason = r"since the bridge .*, so that .* made of; write `track flip_multiplier`"
    with pytest.raises(UserError, match=whole_reason):
        execute(asking, root=own / "runs")
    assert not (own / "runs").exists()
    plain = whole(
        optimizer=optimizer("./own.py:clipped"), track=track("sharpness", every=2), norm=None
    )
    row = execute(plain, root=own / "runs").summary["runs"][0]
    assert row["threshold"] is None or np.isnan(row["threshold"])


def test_an_update_map_trains_as_the_optimizer_that_it_is(own: Path) -> None:
    """Heavy ball as a map of parameters, state and batch, beside aeoskit's own."""
    losses = {}
    for name, chosen in (
        ("map", optimizer("./own.py:descent", lr=0.05, beta=0.9)),
        ("ours", optimizer("momentum", lr=0.05, beta1=0.9, form="polyak")),
    ):
        pipeline = whole(
            loss=loss("mse"),
            optimizer=chosen,
            track=track("flip_multiplier", every=3, rtol=1e-5),
            norm=None,
            train=train(12),
        )
        metrics = read_run(execute(pipeline, root=own / "runs").folder).metrics
        losses[name] = metrics["loss"].values.ravel(), metrics["multiplier"].values.ravel()
    np.testing.assert_allclose(losses["map"][0], losses["ours"][0], rtol=1e-4)
    np.testing.assert_allclose(losses["map"][1], losses["ours"][1], rtol=1e-2)
    with pytest.raises(UserError, match="no preconditioner: track sharpness or flip_multiplier"):
        whole(optimizer=optimizer("./own.py:descent")).experiment()
    with pytest.raises(UserError, match=r"batch is 4, but each step of .* uses all"):
        whole(
            optimizer=optimizer("./own.py:descent"), track=None, train=train(6, batch=4)
        ).experiment()


def test_a_branch_may_switch_to_an_optimizer_of_ones_own(own: Path) -> None:
    pipeline = whole(
        optimizer=optimizer("adam", lr=1e-2),
        branch=branch("switch", optimizer="./own.py:my_adam", lr=1e-3, at=3),
        norm=None,
        store=store(checkpoints=False),
    )
    assert Pipeline.from_json(pipeline.to_json()) == pipeline
    outcome = execute(pipeline, root=own / "runs")
    assert [row["branch"] for row in outcome.summary["runs"]] == ["main", "my_adam"]
    assert [row["optimizer"] for row in outcome.summary["runs"]] == ["adam", "my_adam"]


def test_own_optimizers_are_swept_one_after_the_other(own: Path) -> None:
    pipeline = whole(optimizer=optimizer(["./own.py:my_adam", "adam"], lr=[1e-2, 3e-2]))
    assert [group.values for group in pipeline.groups()] == [
        {"optimizer": name, "lr": lr}
        for name in ("./own.py:my_adam", "adam")
        for lr in (1e-2, 3e-2)
    ]
    assert Pipeline.from_json(pipeline.to_json()) == pipeline


def test_the_metrics_of_an_own_probe_are_in_the_record(own: Path) -> None:
    outcome = execute(whole(), root=own / "runs")
    norms = read_run(outcome.folder).metrics["norm"].squeeze()
    assert norms.notnull().sum() == 3


def test_old_pipelines_have_no_code(own: Path) -> None:
    stage = make_stage("data", "digits", {"examples": 5})
    assert "code" not in pipe(stage).to_dict()["stages"][0]


OPTIONS: dict[str, dict[str, Any]] = {"optimizer": {"lr": 1e-2}, "probe": {"every": 2}}


@pytest.mark.parametrize("kind", STARTERS)
def test_a_starting_file_is_a_part_that_works(own: Path, kind: str) -> None:
    reference = write_starter(kind, Path("mine.py"))
    with pytest.raises(UserError, match="exists already"):
        write_starter(kind, Path("mine.py"))
    if kind == "recipe":
        made = make_recipe(reference, steps=10)
        assert [stage.settings["steps"] for stage in made.stages if stage.stage == "train"] == [10]
        assert made.experiment()
        return
    stage, _ = STARTERS[kind]
    part = make_stage(stage, reference, OPTIONS.get(kind, {}))
    changed = {"track" if kind == "probe" else kind: part}
    changed |= {"track": None, "norm": part} if kind == "probe" else {}
    outcome = execute(whole(**{"norm": None, "track": None, **changed}), root=own / "runs")
    assert outcome.status == "finished"
    named = find_part(f"{reference.rpartition(':')[0]}:{STARTERS[kind][1]}").function
    helps = {option.name: option.help for option in options_for(stage, reference)}
    assert named.__doc__
    assert all(helps.values()), helps


def test_an_installed_package_may_register_names(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entries(group: str) -> dict[str, EntryPoint]:
        named = EntryPoint("wide", "equinox.nn:MLP", group)
        return {"wide": named} if group == "aeoskit.models" else {}

    monkeypatch.setattr(parts, "_entries", entries)
    assert variants_of("model")[-1] == "wide"
    assert "wide" not in variants_of("data")
    assert model("wide", in_size=2, out_size=3, width_size=4, depth=1).settings["width_size"] == 4
    with pytest.raises(UserError, match="did you mean 'wide'"):
        model("wede")


# What own parts may return.


def test_own_data_are_rows_labels_and_test_rows() -> None:
    images = np.arange(2 * 4 * 4).reshape(2, 4, 4) / 10
    made: Any = own_data("data own", lambda: (images, np.array([0, 2])), {})
    assert isinstance(made, Dataset)
    assert made.inputs.shape == (2, 16)
    assert made.image_shape == (4, 4, 1)
    assert made.targets.tolist() == [[1, 0, 0], [0, 0, 1]]
    four: Any = own_data(
        "data own", lambda: (np.eye(2), np.array([0.5, 1.5]), np.ones((3, 2)), np.ones(3)), {}
    )
    assert four.targets.tolist() == [[0.5], [1.5]]
    assert four.test_inputs.shape == (3, 2)
    assert own_data("data own", lambda: made, {}) is made


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (3, "returned a int: return a Dataset, or a tuple"),
        ((np.eye(2), np.zeros(3)), "2 inputs have 3 targets"),
        ((np.full((2, 2), np.nan), np.zeros(2)), "inputs are not all finite"),
        ((np.eye(2), np.array([np.inf, 0])), "targets are not all finite"),
        ((np.eye(2), np.array([0, -1])), "classes are from -1 to 0"),
        ((np.eye(2), np.array(["a", "b"])), "give classes"),
        ((np.zeros(3), np.zeros(3)), "of shape"),
        ((np.eye(2), np.zeros(2), np.ones((1, 3)), np.zeros(1)), "test inputs have 3 features"),
        ((np.eye(2), np.array([0, 1]), np.eye(2), np.array([0, 2])), "classes are from 0 to 2"),
    ],
)
def test_own_data_that_are_none_are_refused(made: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        own_data("data own", lambda: made, {})


def test_own_models() -> None:
    dataset = own_data("data own", lambda: (np.eye(3), np.array([0, 1, 1])), {})
    key = jax.random.key(0)

    def net(dataset, *, width: int = 4, key):
        return eqx.nn.MLP(dataset.inputs.shape[1], dataset.num_classes, width, 1, key=key)

    made = own_model("model net", net, {"width": 5})
    params = made.init(key, dataset)
    direct = jax.vmap(net(dataset, width=5, key=key))(dataset.inputs)
    assert jnp.array_equal(made.apply(params, dataset.inputs), direct)
    assert all(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(params))
    # Equal settings give equal structures, so that nothing is traced twice.
    again = own_model("model net", net, {"width": 5}).init(jax.random.key(1), dataset)
    assert jax.tree.structure(params) == jax.tree.structure(again)

    pair = own_model("model pair", lambda: (lambda key, data: jnp.ones(3), lambda w, x: x @ w), {})
    assert pair.apply(pair.init(key, dataset), dataset.inputs).tolist() == [1, 1, 1]
    for wrong, says in (
        (lambda: 3, "returned a int"),
        (lambda key: 3, "returned a int"),
        (lambda: eqx.nn.Lambda(jnp.tanh), "nothing to train"),
        (lambda key: Counting(), "whole numbers"),
        (lambda key: 1 / 0, "ZeroDivisionError"),
    ):
        with pytest.raises(UserError, match=says):
            own_model("model wrong", wrong, {}).init(key, dataset)


def test_a_model_is_not_an_optimizer_nor_an_update_map() -> None:
    for wrong, says in (
        (lambda: optax.adam(0.1), "returned a GradientTransformation"),
        (lambda: (lambda params: (), lambda w, x: x), r"init has the parameters \(params\), but"),
        (lambda: (lambda key, data: 1, lambda w: w), r"apply .* called with \(params, inputs\)"),
    ):
        with pytest.raises(UserError, match=says):
            own_model("model wrong", wrong, {})


class Counting(eqx.Module):
    weight: Any = eqx.field(default_factory=lambda: jnp.ones(2))
    count: Any = eqx.field(default_factory=lambda: jnp.arange(2))

    def __call__(self, x: Any) -> Any:
        return x * self.weight


def test_own_losses_optimizers_and_probes() -> None:
    def absolute(outputs, targets, *, scale: float = 1.0):
        return scale * jnp.abs(outputs - targets)

    assert own_loss("loss own", absolute, {"scale": 2.0})(jnp.array(3.0), 1.0) == 4
    factory = own_loss("loss own", lambda *, scale=1.0: absolute, {"scale": 2.0})
    assert factory(jnp.array(3.0), 1.0) == 2
    with pytest.raises(UserError, match="return a function of outputs and targets"):
        own_loss("loss own", lambda: 3, {})
    with pytest.raises(UserError, match=r"called with \(outputs, targets\).* parameter a default"):
        own_loss("loss own", lambda outputs, targets, params: 0, {})
    with pytest.raises(UserError, match="write a function of outputs and targets"):
        own_loss("loss own", lambda outputs: 0, {})
    with pytest.raises(UserError, match=r"update_map .* called with \(params, state, batch\)"):
        own_optimizer("optimizer own", lambda: (lambda params: (), lambda w, state: (w, state)), {})
    with pytest.raises(UserError, match="optimizer own returned a int: return an"):
        own_optimizer("optimizer own", lambda: 3, {})
    with pytest.raises(UserError, match="AbstractProbe"):
        own_probe("track own", lambda: 3, {})
    assert inspect.isabstract(AbstractProbe)
