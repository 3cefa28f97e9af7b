"""`aeoskit pipe` cuts raw arguments at stage names, never inside an option's value."""

import pytest

from aeoskit_cli._cut import cut
from aeoskit_cli._pipe import compose
from aeoskit_experiments.pipelines import UserError


def test_pieces() -> None:
    found = cut(
        [
            "--name",
            "a",
            "data",
            "digits",
            "--examples",
            "500",
            "model",
            "mlp",
            "--seed=3",
            "loss",
            "mse",
            "--json",
            "-q",
        ]
    )
    assert [(piece.stage, piece.variants) for piece in found.pieces] == [
        ("data", ("digits",)),
        ("model", ("mlp",)),
        ("loss", ("mse",)),
    ]
    assert found.pieces[0].arguments == ("--examples", "500")
    assert (found.name, found.json, found.quiet) == ("a", True, True)


def test_a_value_is_never_a_stage() -> None:
    found = cut(["store", "--root", "train", "--folder", "plot", "plot", "--kind", "edge"])
    assert [piece.stage for piece in found.pieces] == ["store", "plot"]
    first = compose(found).stages[0]
    assert (first.options["root"], first.options["folder"]) == ("train", "plot")


def test_a_value_may_look_like_an_option() -> None:
    with pytest.raises(UserError, match="lr is -1: it must be positive"):
        compose(cut(["optimizer", "adam", "--lr", "-1"]))
    assert compose(cut(["store", "--root", "--json"])).stages[0].options["root"] == "--json"


def test_dashes_escape() -> None:
    with pytest.raises(UserError, match="unknown variant 'train' of stage 'model'"):
        cut(["model", "--", "train"])
    found = cut(["plot", "--", "train", "store"])
    assert [piece.stage for piece in found.pieces] == ["plot", "store"]
    assert found.pieces[0].arguments == ("train",)


def test_flags_take_no_value() -> None:
    found = cut(["store", "--no-checkpoints", "plot"])
    assert [piece.stage for piece in found.pieces] == ["store", "plot"]
    assert compose(found).stages[0].options == {"checkpoints": False}


def test_lists_are_sweeps() -> None:
    stages = compose(
        cut(
            [
                "optimizer",
                "adam,nadam",
                "--lr",
                "1e-3,3e-3",
                "train",
                "--steps",
                "10",
                "--batch",
                "4,none",
            ]
        )
    ).stages
    assert stages[0].variant == ("adam", "nadam")
    assert stages[0].options == {"lr": (1e-3, 3e-3)}
    assert stages[1].options == {"steps": 10, "batch": (4, None)}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("modle mlp", "unknown stage 'modle': did you mean 'model'"),
        ("model mpl", "unknown variant 'mpl' of stage 'model': did you mean 'mlp'"),
        ("model --width 3", "lacks its variant"),
        ("model", "lacks its variant"),
        ("model train --steps 3", "lacks its variant"),
        ("model mlp --widht 3", "unknown option '--widht' of model mlp: did you mean '--width'"),
        ("model mlp --width", "--width lacks its value"),
        ("model mlp 64", "unknown stage '64'"),
        ("train steps 3", "unknown stage 'steps'"),
        ("--jsn data digits", "did you mean '--json'"),
        ("optimizer adam,rmspropp --lr 1", "unknown variant 'rmspropp'"),
    ],
)
def test_refusals(words: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        cut(words.split())
    assert says in str(caught.value)


def test_no_stages() -> None:
    with pytest.raises(UserError, match="pipe got no stages"):
        compose(cut([]))
