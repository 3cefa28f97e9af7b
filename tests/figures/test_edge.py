from colorsys import rgb_to_hls
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex, to_rgb

from aeoskit.figures import edge_figure, running_median, summary_figure

STEPS = np.arange(0, 200)


def sweep(lrs=(1e-3, 3e-3, 1e-2), diverged=None, every=10):
    """Curves that rise to 38/η and oscillate there; one may diverge."""
    dims = ("branch", "lr", "step")
    threshold = np.array([np.full(STEPS.size, 38 / lr) for lr in lrs])
    value = threshold * np.minimum(STEPS / 100, 1 + 0.1 * np.sin(STEPS)).clip(0.01)
    loss = np.array([np.exp(-STEPS * lr) for lr in lrs])
    at = np.full((1, len(lrs)), -1)
    if diverged is not None:
        at[0, diverged] = 150
        loss[diverged, 140:] = 1e30
        for array in (loss, value, threshold):
            array[diverged, 151:] = np.nan
    value[:, STEPS % every != 0] = np.nan
    threshold[:, STEPS % every != 0] = np.nan
    return xr.Dataset(
        {
            "loss": (dims, loss[None]),
            "preconditioned_sharpness": ((*dims, "index"), value[None, ..., None]),
            "preconditioned_sharpness_matvecs": (dims, 7 + 0 * value[None]),
            "threshold": (dims, threshold[None]),
            "diverged_at": (("branch", "lr"), at),
        },
        {"branch": ["main"], "lr": list(lrs), "step": STEPS, "index": [0]},
    )


def lines(axes, label) -> list[Any]:
    return [line for line in axes.lines if line.get_label() == label]


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def draw(figure):
    """A whole drawing, in which missing glyphs and failing layouts would warn."""
    figure.savefig("/dev/null", format="png")
    return figure


def test_each_run_has_its_threshold_dashed_in_its_color():
    figure = draw(edge_figure(sweep(), "adam-edge"))
    loss, sharpness = figure.axes
    assert (loss.get_yscale(), sharpness.get_yscale()) == ("log", "log")
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("step", "training loss")
    assert sharpness.get_ylabel() == "preconditioned sharpness  λ₁(P⁻¹H)"
    dashed = lines(sharpness, "_threshold")
    assert [line.get_ydata()[0] for line in dashed] == pytest.approx([38e3, 38e3 / 3, 3.8e3])
    assert all(line.get_linestyle() == "--" for line in dashed)
    for line, name in zip(dashed, ("η = 1e-3", "η = 3e-3", "η = 1e-2"), strict=True):
        (run,) = lines(sharpness, name)
        (same,) = lines(loss, name)
        assert to_hex(run.get_color()) == to_hex(same.get_color())
        # Of the same hue but darker, and above: a run that hovers there does not hide it.
        ((hue, light, _), (darker_hue, darker, _)) = (
            rgb_to_hls(*to_rgb(x.get_color())) for x in (run, line)
        )
        assert darker_hue == pytest.approx(hue)
        assert 0.4 * light < darker < 0.7 * light
        assert line.get_zorder() > run.get_zorder()
        assert run.get_xdata().tolist() == list(range(10, 200, 10)) or len(run.get_xdata()) == 20
    assert labels(figure) == ["η = 1e-3", "η = 3e-3", "η = 1e-2", "own threshold"]
    assert figure.legends[0].get_title().get_text() == "adam-edge"


def test_colors_differ_and_nothing_covers_the_panels():
    figure = draw(edge_figure(sweep(tuple(np.geomspace(1e-4, 1e-1, 9))), "many"))
    colors = {to_hex(line.get_color()) for line in lines(figure.axes[1], "_threshold")}
    assert len(colors) == 9
    legend = figure.legends[0].get_window_extent()
    assert not any(legend.overlaps(axes.bbox) for axes in figure.axes)


def test_a_run_that_diverged_ends_with_a_cross_and_does_not_squeeze_the_others():
    figure = draw(edge_figure(sweep(diverged=2)))
    loss = figure.axes[0]
    (cross,) = lines(loss, "_diverged")
    (run,) = lines(loss, "η = 1e-2")
    assert cross.get_marker() == "x"
    assert to_hex(cross.get_color()) == to_hex(run.get_color())
    assert loss.get_ylim()[1] < 100
    assert cross.get_ydata()[0] == pytest.approx(loss.get_ylim()[1])
    assert max(run.get_xdata()) <= 150
    assert "η = 1e-2, diverged at step 150" in labels(figure)


def test_all_runs_diverged():
    data = sweep(lrs=(1e-2,), diverged=0)
    figure = draw(edge_figure(data))
    assert labels(figure)[0] == "η = 1e-2, diverged at step 150"
    assert np.isfinite(figure.axes[0].get_ylim()).all()


def test_the_first_spike_leaves_the_panel():
    data = sweep()
    data["preconditioned_sharpness"][0, :, 0] = 1e9
    assert draw(edge_figure(data)).axes[1].get_ylim()[1] < 1e5


def test_gradient_descent_has_its_threshold_at_the_raw_sharpness():
    data = sweep().rename(preconditioned_sharpness="sharpness")
    axes = draw(edge_figure(data)).axes[1]
    assert axes.get_ylabel() == "sharpness  λ₁(H)"
    assert len(lines(axes, "_threshold")) == 3


def test_a_schedule_bends_the_threshold():
    data = sweep()
    data["threshold"] = data["threshold"] * (1 + 100 / (1 + data["step"]))
    dashed = lines(draw(edge_figure(data)).axes[1], "_threshold")[0]
    assert len(dashed.get_xdata()) == 20


def grid():
    data = xr.concat([sweep(), sweep()], dim="beta1").assign_coords(beta1=[0.9, 0.814])
    return data.transpose("branch", "lr", "beta1", "step", "index")


def test_a_grid_has_hues_and_tones():
    figure = draw(edge_figure(grid()))
    # Down the columns: a line of learning rates, and one of momenta.
    rates, momenta = labels(figure)[::2], labels(figure)[1::2]
    assert rates[:3] == ["η = 1e-3", "η = 3e-3", "η = 1e-2"]
    assert momenta == ["β₁ = 0.9", "β₁ = 0.814", "own threshold"]
    loss, sharpness = figure.axes
    pairs = [
        [to_rgb(lines(loss, f"{rate}, {momentum}")[0].get_color()) for momentum in momenta[:2]]
        for rate in rates[:3]
    ]
    hues = [[rgb_to_hls(*color)[0] for color in pair] for pair in pairs]
    assert all(pale == pytest.approx(dark) for pale, dark in hues)
    assert len({round(pale, 2) for pale, _ in hues}) == 3
    assert all(sum(pale) > 1.5 * sum(dark) for pale, dark in pairs)
    # Each learning rate's two runs have the same threshold here: it is drawn once, in their hue.
    dashed = [rgb_to_hls(*to_rgb(x.get_color()))[0] for x in lines(sharpness, "_threshold")]
    assert dashed == pytest.approx([pale for pale, _ in hues])


def test_a_grid_says_which_run_diverged():
    data = grid()
    data["diverged_at"][0, 2, 1] = 150
    assert "η = 1e-2, β₁ = 0.814, diverged at step 150" in labels(draw(edge_figure(data)))


def test_a_threshold_of_all_runs_is_of_none():
    data = sweep().rename(lr="batch").assign_coords(batch=[16.0, 64.0, 256.0])
    data["threshold"] = 0 * data["threshold"] + 38e3
    figure = draw(edge_figure(data))
    (dashed,) = lines(figure.axes[1], "_threshold")
    assert np.ptp(to_rgb(dashed.get_color())) == pytest.approx(0)


def test_branches_of_a_sweep_are_tones_of_their_run():
    data = xr.concat([sweep((1e-3, 3e-3))] * 2, dim="branch").assign_coords(
        branch=["main", "frozen"]
    )
    figure = draw(edge_figure(data))
    assert labels(figure)[:4] == ["η = 1e-3", "η = 3e-3", "main", "frozen"]


def test_names_branches_and_loose_lanes():
    data = sweep().rename(lr="optimizer").assign_coords(optimizer=["adam", "nadam", "gd"])
    assert labels(edge_figure(data))[:3] == ["adam", "nadam", "gd"]
    two = xr.concat([sweep((1e-3,)).isel(lr=0)] * 2, dim="branch").assign_coords(branch=["a", "b"])
    assert labels(edge_figure(two))[:2] == ["a", "b"]
    loose = (
        sweep()
        .rename(lr="lane")
        .assign_coords(
            lane=[0, 1, 2], lr=("lane", [1e-3, 3e-3, 3e-3]), beta1=("lane", [0.9, 0.9, 0.5])
        )
    )
    assert labels(edge_figure(loose))[2] == "η = 3e-3, β₁ = 0.5"


def test_only_what_was_measured_is_drawn():
    one = sweep().isel(lr=0)
    assert len(edge_figure(one).axes) == 2
    assert labels(edge_figure(one))[0] == "η = 1e-3"
    assert len(edge_figure(sweep()[["loss"]]).axes) == 1
    assert [a.get_ylabel() for a in edge_figure(sweep().drop_vars("loss")).axes] == [
        "preconditioned sharpness  λ₁(P⁻¹H)"
    ]
    with pytest.raises(ValueError, match="summary_figure"):
        edge_figure(sweep()[["threshold", "diverged_at"]])


def test_a_summary_draws_everything_else():
    data = sweep()
    data["accuracy"] = 1 - data["loss"] / 2
    data["ratio"] = data["preconditioned_sharpness"].isel(index=0) / data["threshold"]
    data["never"] = data["loss"] * np.nan
    figure = draw(summary_figure(data))
    assert {axes.get_ylabel(): axes.get_yscale() for axes in figure.axes} == {
        "training loss": "log",
        "preconditioned sharpness  λ₁(P⁻¹H)": "log",
        "accuracy": "linear",
        "λ₁(P⁻¹H) / threshold": "linear",
    }
    with pytest.raises(ValueError, match="nothing was measured"):
        summary_figure(data[["never"]])


def test_values_at_and_below_zero_do_not_break_the_axis():
    data = sweep()
    data["loss"][:] = 0.0
    data["preconditioned_sharpness"][0, 0, :50] = -1.0
    draw(edge_figure(data))


def test_no_figure_is_left_with_pyplot():
    from matplotlib import pyplot, rcParams

    before = dict(rcParams)
    edge_figure(sweep())
    assert pyplot.get_fignums() == []
    assert dict(rcParams) == before


def test_running_median_ignores_spikes_and_gaps():
    values = np.ones(200)
    values[10::20] = 100
    values[7] = np.nan
    np.testing.assert_array_equal(running_median(STEPS, values), 1)
    assert np.isnan(running_median([0, 1000], [np.nan, 1.0])[0])


def test_the_running_median_looks_back_only():
    """Claims are judged by it: a step shows late, never early; in a picture, where it is."""
    values = np.where(STEPS >= 100, 1.0, 0.0)
    values[::7] = np.nan
    assert STEPS[np.argmax(running_median(STEPS, values) > 0.5)] > 120
    assert abs(STEPS[np.argmax(running_median(STEPS, values, centered=True) > 0.5)] - 100) < 5


def test_a_swept_none_is_named():
    data = sweep(lrs=(1.0, 2.0)).rename(lr="batch").assign_coords(batch=["16", "none"])
    assert labels(draw(edge_figure(data)))[:2] == ["batch = 16", "batch = none"]
    data = data.assign_coords(batch=[16.0, np.nan])  # records of before
    assert labels(draw(edge_figure(data)))[:2] == ["batch = 16", "batch = none"]
