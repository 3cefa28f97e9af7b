from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex

from aeoskit.figures import advance_figure
from aeoskit.figures._factors import darker

FREEZE = 100
STEPS = np.arange(0, 300, 5)


def advance():
    """Adam advances at ratio 1; its frozen branch and momentum are blocked."""
    dims = ("branch", "step")
    late = STEPS >= FREEZE
    wobble = 1 + 0.05 * np.sin(STEPS)
    ratio = np.array([np.minimum(STEPS / 100, 1), np.where(late, 1, np.nan), 0 * STEPS + 1.0])
    sharpness = [
        20 * np.exp(STEPS / 80),
        np.where(late, 70, np.nan),
        19 * np.minimum(1, 0.1 + STEPS / 50),
    ]
    threshold = [0 * STEPS + 1e6, np.where(late, 1e6, np.nan), 0 * STEPS + 19.0]
    loss = [np.exp(-STEPS / 100), np.where(late, 0.3, np.nan), np.exp(-STEPS / 400)]
    return xr.Dataset(
        {
            "ratio": (dims, ratio * wobble),
            "sharpness": ((*dims, "index"), (np.array(sharpness) * wobble)[..., None]),
            "threshold": (dims, np.array(threshold)),
            "loss": (dims, np.array(loss)),
            "diverged_at": (("branch",), np.full(3, -1)),
        },
        {"branch": ["main", "momentum", "frozen"], "step": STEPS, "index": [0], "lr": 3e-5},
    ).assign_coords(branch=["main", "frozen", "momentum"])


def lines(axes, label) -> list[Any]:
    return [line for line in axes.lines if line.get_label() == label]


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_three_panels():
    figure = advance_figure(advance(), "advance")
    figure.savefig("/dev/null", format="pdf")
    ratio, sharpness, loss = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "λ₁(P⁻¹H) / threshold",
        "sharpness  λ₁(H)",
        "training loss",
    ]
    assert [a.get_yscale() for a in figure.axes] == ["linear", "log", "log"]
    (one,) = lines(ratio, "_threshold")
    assert set(one.get_ydata()) == {1}
    (blocked,) = lines(sharpness, "_threshold")
    assert blocked.get_ydata()[0] == 19
    (momentum,) = lines(sharpness, "momentum GD")
    assert to_hex(blocked.get_color()) == to_hex(darker(to_hex(momentum.get_color())))
    for axes in figure.axes:
        (freeze,) = lines(axes, "_freeze")
        assert freeze.get_xdata()[0] == FREEZE
        # Bold medians over what was measured, faint.
        assert len(lines(axes, "_measured")) == 3
        (adam,) = lines(axes, "Adam")
        faint = lines(axes, "_measured")[0]
        assert adam.get_linewidth() > 2 * faint.get_linewidth()
        assert faint.get_alpha() < 0.5
    assert labels(figure) == [
        "Adam",
        "P frozen at step 100",
        "momentum GD",
        "momentum's threshold",
    ]
    legend = figure.legends[0].get_window_extent()
    assert not any(legend.overlaps(axes.bbox) for axes in figure.axes)
    assert loss.get_xlabel() == "step"


def test_the_ratio_is_made_where_it_was_not_measured():
    data = advance()
    data["preconditioned_sharpness"] = (data["ratio"] * data["threshold"]).where(
        data["branch"] != "momentum"
    )
    ratios = [
        [line.get_ydata() for line in lines(advance_figure(given).axes[0], "_measured")]
        for given in (data, data.drop_vars("ratio"))
    ]
    np.testing.assert_allclose(ratios[0][:2][0], ratios[1][:2][0])
    np.testing.assert_allclose(ratios[0][1], ratios[1][1])
    expected = data["sharpness"].sel(branch="momentum", index=0) / 19
    np.testing.assert_allclose(ratios[1][2], expected)


def test_branches_may_be_missing_or_diverge():
    data = advance()
    figure = advance_figure(data.sel(branch=["main"]))
    assert labels(figure) == ["Adam"]
    data["diverged_at"][1] = 200
    figure = advance_figure(data)
    figure.savefig("/dev/null", format="png")
    assert labels(figure)[1] == "P frozen at step 100, diverged at step 200"
    assert len(lines(figure.axes[1], "_diverged")) == 1


def test_branches_keep_their_names_and_none_is_dropped():
    data = advance()
    other = data.sel(branch=["momentum"]).assign_coords(branch=["tuned"])
    data = xr.concat([data, other], "branch")
    figure = advance_figure(data, labels={"main": "RMSprop", "momentum": "heavy ball"})
    figure.savefig("/dev/null", format="png")
    assert labels(figure) == [
        "RMSprop",
        "P frozen at step 100",
        "heavy ball",
        "tuned",
        "heavy ball's threshold",
    ]
    drawn = [
        to_hex(lines(figure.axes[1], label)[0].get_color())
        for label in ("RMSprop", "heavy ball", "tuned")
    ]
    assert len(set(drawn)) == 3
    plain = advance_figure(advance())
    assert drawn[1] == to_hex(lines(plain.axes[1], "momentum GD")[0].get_color())


def test_a_sweep_has_a_color_a_run():
    main = advance().drop_vars("lr").sel(branch=["main"])
    data = xr.concat([main, 2 * main], "lr").assign_coords(lr=[3e-5, 1e-4])
    data["diverged_at"] = (("branch", "lr"), [[-1, 200]])
    figure = advance_figure(data, labels={"main": "Adam"})
    figure.savefig("/dev/null", format="png")
    assert labels(figure) == ["η = 3e-5", "η = 1e-4, diverged at step 200"]
    drawn = [
        [to_hex(lines(axes, label)[0].get_color()) for axes in figure.axes]
        for label in ("η = 3e-5", "η = 1e-4")
    ]
    assert [len(set(colors)) for colors in drawn] == [1, 1]
    assert drawn[0] != drawn[1]
    assert all(len(lines(axes, "_diverged")) == 1 for axes in figure.axes)
    # No threshold is one for the raw sharpness: there is no momentum.
    assert not lines(figure.axes[1], "_threshold")


def test_all_branches_of_a_rewound_run_begin_later():
    """Momentum takes over at the edge too, and is blocked at once."""
    data = advance()
    late = data["step"] >= FREEZE
    for name in ("ratio", "sharpness", "threshold", "loss"):
        data[name] = data[name].where(late | (data["branch"] == "main"))
    figure = advance_figure(data)
    figure.savefig("/dev/null", format="png")
    assert labels(figure)[1:3] == ["P frozen at step 100", "momentum GD from step 100"]
    (blocked,) = lines(figure.axes[1], "_threshold")
    assert blocked.get_xdata()[0] == FREEZE
    assert [text.get_text() for text in figure.axes[0].texts] == ["branches"]
    # Without what was before, there is no moment to mark.
    alone = advance_figure(data.sel(step=slice(FREEZE, None)))
    assert labels(alone)[1:3] == ["P frozen at step 100", "momentum GD"]
    assert not lines(alone.axes[0], "_freeze")


def test_a_branch_that_diverges_does_not_squeeze_the_others():
    data = advance()
    data["diverged_at"][2] = 200
    data["sharpness"][2, 35:] = 1e20
    axes = advance_figure(data).axes[1]
    assert axes.get_ylim()[1] < 1e5
    (cross,) = lines(axes, "_diverged")
    assert cross.get_ydata()[0] <= axes.get_ylim()[1]


def test_what_cannot_be_drawn_is_refused():
    data = advance().drop_vars("lr").expand_dims(lr=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"isel\(lr=0\)`, or one branch"):
        advance_figure(data)
