from typing import Any

import numpy as np
import pytest
import xarray as xr

from aeoskit.figures import Spike, find_spikes, spikes_figure

STEPS = np.arange(1000)


def spiky(*at: int, height: float = 4.0) -> np.ndarray:
    """A falling loss with spikes of three steps, highest at the second."""
    loss = np.exp(-STEPS / 2000)
    for step in at:
        loss[step : step + 3] *= np.array([height / 2, height, height / 2])
    return loss


class TestFindSpikes:
    def test_onset_peak_and_height(self):
        first, second = find_spikes(STEPS, spiky(300, 600))
        assert (first.onset, first.peak) == (300, 301)
        assert (second.onset, second.peak) == (600, 601)
        # The median is that of 50 steps ago, when the loss was higher by 2.5 percent.
        assert first.height == pytest.approx(4 * np.exp(-50 / 2000), rel=2e-3)

    def test_near_ones_are_one_spike(self):
        loss = spiky(300, 308)
        assert [spike.onset for spike in find_spikes(STEPS, loss)] == [300]
        assert [spike.onset for spike in find_spikes(STEPS, loss, gap=3)] == [300, 308]

    def test_how_high_and_against_what(self):
        loss = spiky(300, height=1.7)
        assert len(find_spikes(STEPS, loss)) == 1
        assert find_spikes(STEPS, loss, factor=1.8) == []
        # A loss that rises for good stands out until its median has followed.
        risen = np.where(STEPS < 500, 1.0, 2.0)
        assert find_spikes(STEPS, risen, width=20) == [Spike(500, 500, 2.0)]

    def test_none_before_the_window_is_whole(self):
        assert find_spikes(STEPS, spiky(50)) == []
        assert len(find_spikes(STEPS, spiky(50), width=40)) == 1

    def test_what_was_not_measured_is_left_out(self):
        loss = spiky(300)
        loss[302:500] = np.nan
        loss[700] = np.inf
        assert [(spike.onset, spike.peak) for spike in find_spikes(STEPS, loss)] == [(300, 301)]
        assert find_spikes([], []) == []

    def test_a_loss_of_zero_has_no_multiples(self):
        loss = np.where(STEPS < 500, 1.0, 0.0)
        loss[[300, 900]] = 2.0, 1e-6
        assert find_spikes(STEPS, loss) == [Spike(300, 300, 2.0)]

    def test_nothing_measured_has_none(self):
        assert find_spikes(STEPS, np.full(1000, np.nan)) == []


def record(diverged: int = -1) -> xr.Dataset:
    ratio = 1 + 0.1 * np.sin(STEPS / 30)
    loss = np.stack([spiky(300, 600), spiky()])
    return xr.Dataset(
        {
            "loss": (("branch", "beta2", "step"), loss[None]),
            "ratio": (("branch", "beta2", "step"), np.stack([ratio, 0 * ratio + 0.5])[None]),
            "diverged_at": (("branch", "beta2"), [[-1, diverged]]),
        },
        {"branch": ["main"], "beta2": [0.999, 0.9], "step": STEPS},
    )


def lines(axes: Any, label: str) -> list[Any]:
    return [line for line in axes.lines if line.get_label() == label]


def test_each_run_has_its_loss_over_its_ratio():
    figure = spikes_figure(record(), "e14-spikes")
    figure.savefig("/dev/null", format="png")
    loss, ratio, calm, below = figure.axes
    assert (loss.get_yscale(), ratio.get_yscale()) == ("log", "linear")
    assert loss.get_title(loc="left") == "β₂ = 0.999: 2 spikes"
    assert calm.get_title(loc="left") == "β₂ = 0.9: 0 spikes"
    assert loss.get_ylim() == calm.get_ylim()
    assert loss.get_xlim() == ratio.get_xlim()
    (marks,) = lines(loss, "_spikes")
    assert marks.get_xdata().tolist() == [301, 601]
    for axes in (loss, ratio):
        assert [line.get_xdata()[0] for line in lines(axes, "_onset")] == [300, 600]
    (edge,) = lines(ratio, "_threshold")
    assert set(edge.get_ydata()) == {1}
    (shade,) = ratio.collections
    heights = np.concatenate([np.asarray(path.vertices)[:, 1] for path in shade.get_paths()])
    assert heights.min() == 1
    assert heights.max() == pytest.approx(1.1, abs=1e-3)
    assert not any(np.size(path.vertices) for path in below.collections[0].get_paths())
    assert ratio.get_ylim()[0] > 0.5
    legend = figure.legends[0].get_window_extent()
    assert not any(legend.overlaps(axes.bbox) for axes in figure.axes)


def test_a_run_that_diverged_and_other_bounds():
    figure = spikes_figure(record(diverged=500), factor=5)
    assert figure.axes[0].get_title(loc="left") == "β₂ = 0.999: 0 spikes"
    assert figure.axes[2].get_title(loc="left") == "β₂ = 0.9: 0 spikes, diverged at 500"
    assert max(lines(figure.axes[2], "loss")[0].get_xdata()) == 500


def test_a_loss_of_zero_is_drawn():
    data = record()
    data["loss"][:] = 0.0
    figure = spikes_figure(data)
    figure.savefig("/dev/null", format="png")
    assert "0 spikes" in figure.axes[0].get_title(loc="left")


def test_refusals():
    with pytest.raises(ValueError, match="needs 'ratio': track preconditioned_sharpness"):
        spikes_figure(record().drop_vars("ratio"))
