"""`aeoskit pipe` cuts raw arguments at stage names, never inside an option's value."""

import pytest

from aeoskit_cli._cut import Piece
from aeoskit_cli._cut import cut as cut_words
from aeoskit_cli._pipe import compose
from aeoskit_experiments.pipelines import UserError

OWN = {"--name": True, "--mesh": True, "--workers": True, "--json": False, "-q": False}


def cut(words: list[str]) -> list[Piece]:
    return cut_words(words, OWN)[0]


def test_pieces() -> None:
    words = "--name a data digits --examples 500 model mlp --seed=3 --json loss mse -q --mesh data"
    pieces, own = cut_words(words.split(), OWN)
    assert [(piece.stage, piece.variants) for piece in pieces] == [
        ("data", ("digits",)),
        ("model", ("mlp",)),
        ("loss", ("mse",)),
    ]
    assert pieces[0].arguments == ("--examples", "500")
    assert own == ["--name", "a", "--json", "-q", "--mesh", "data"]


def test_an_option_of_the_stage_takes_precedence() -> None:
    words = "branch freeze --name frozen --at 3 --json place --mesh data=2 plot --mesh data=4"
    pieces, own = cut_words(words.split(), OWN)
    assert [piece.arguments for piece in pieces] == [
        ("--name", "frozen", "--at", "3"),
        ("--mesh", "data=2"),
        (),
    ]
    assert own == ["--json", "--mesh", "data=4"]


def test_a_value_is_never_a_stage() -> None:
    found = cut(["store", "--root", "train", "--folder", "plot", "plot", "--kind", "edge"])
    assert [piece.stage for piece in found] == ["store", "plot"]
    first = compose(found).stages[0]
    assert (first.options["root"], first.options["folder"]) == ("train", "plot")


def test_a_value_may_look_like_an_option() -> None:
    with pytest.raises(UserError, match="lr is -1: it must be positive"):
        compose(cut(["optimizer", "adam", "--lr", "-1"]))
    assert compose(cut(["store", "--root", "--json"])).stages[0].options["root"] == "--json"


def test_dashes_before_the_first_stage_end_the_own_options() -> None:
    words = "-- data digits --examples 500 loss mse --json"
    pieces, own = cut_words(["--name", "a", *words.split()], OWN)
    assert [(piece.stage, piece.variants) for piece in pieces] == [
        ("data", ("digits",)),
        ("loss", ("mse",)),
    ]
    assert own == ["--name", "a", "--json"]
    with pytest.raises(UserError, match="unknown stage 'digits'"):
        cut(["--", "digits"])


def test_dashes_escape() -> None:
    with pytest.raises(UserError, match="unknown variant 'train' of stage 'model'"):
        cut(["model", "--", "train"])
    found = cut(["plot", "--", "train", "store"])
    assert [piece.stage for piece in found] == ["plot", "store"]
    assert found[0].arguments == ("train",)


def test_flags_take_no_value() -> None:
    found = cut(["store", "--no-checkpoints", "plot"])
    assert [piece.stage for piece in found] == ["store", "plot"]
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
        ("model mlp --width", "model mlp: --width lacks its value: write --width VALUE"),
        ("model mlp --width loss mse", "--width lacks its value, since loss is the next stage"),
        ("model mlp --width --depth 3", "--width lacks its value, since --depth is an option"),
        ("train --steps store", "train: --steps lacks its value, since store is the next stage"),
        ("model mlp --activation loss mse", "--activation lacks its value, since loss"),
        ("store --root", "store: --root lacks its value: write --root VALUE"),
        ("data digits --workers", "--workers lacks its value"),
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
