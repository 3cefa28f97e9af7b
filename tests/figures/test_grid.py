from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from aeoskit.figures import grid_figure

STEPS = np.arange(0, 101, 10)
RATES, DECAYS = [3e-4, 1e-3, 3e-3], [0.9, 0.999]


def grid(diverged: bool = False) -> xr.Dataset:
    """A grid whose last measurements, but not its first, are 100, 200 and so on."""
    ends = 100.0 * (1 + np.arange(6)).reshape(1, 3, 2, 1)
    sharpness = np.where(STEPS >= 80, ends, 1e6) + 0 * STEPS
    sharpness[..., -1] = 1e6  # One value of three: a median does not see it.
    dims = ("branch", "lr", "beta2", "step")
    at = np.full((1, 3, 2), -1)
    if diverged:
        at[0, 2, 1] = 41
    return xr.Dataset(
        {
            "sharpness": ((*dims, "index"), sharpness[..., None]),
            "ratio": (dims, np.full(sharpness.shape, 0.987)),
            "diverged_at": (dims[:3], at),
        },
        {"branch": ["main"], "lr": RATES, "beta2": DECAYS, "step": STEPS, "index": [0]},
    )


def draw(figure: Any) -> Any:
    figure.savefig("/dev/null", format="png")
    return figure


def panels(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def cells(axes: Any) -> dict[tuple[float, float], str]:
    return {text.get_position(): text.get_text() for text in axes.texts}


def test_a_cell_is_the_median_over_the_last_fifth():
    figure = draw(grid_figure(grid(), "e10-grid"))
    sharpness, ratio = panels(figure)
    assert [axes.get_title(loc="left") for axes in panels(figure)] == [
        "sharpness  λ₁(H)",
        "λ₁(P⁻¹H) / threshold",
    ]
    # Learning rates go up, decays to the right.
    assert [cells(sharpness)[column, row] for row in range(3) for column in range(2)] == [
        "100",
        "200",
        "300",
        "400",
        "500",
        "600",
    ]
    assert set(cells(ratio).values()) == {"0.99"}
    assert [text.get_text() for text in sharpness.get_yticklabels()] == ["3e-4", "1e-3", "3e-3"]
    assert [text.get_text() for text in sharpness.get_xticklabels()] == ["0.9", "0.999"]
    assert (sharpness.get_ylabel(), sharpness.get_xlabel(), ratio.get_xlabel()) == ("η", "β₂", "β₂")
    assert figure.get_suptitle() == "e10-grid"


def test_a_ratio_is_colored_by_its_distance_from_1():
    data = grid()
    for place, ratio in zip(np.ndindex(3, 2), (0.5, 0.8, 1.0, 1.2, 1.5, 3.0), strict=True):
        data["ratio"][(0, *place)] = ratio
    figure = draw(grid_figure(data))
    red, _, blue, _ = np.transpose([patch.get_facecolor() for patch in panels(figure)[1].patches])
    assert ((blue - red)[:2] > 0).all()
    assert ((blue - red)[3:] < 0).all()
    assert abs(blue - red)[2] < 0.01
    # One far above leaves those below 1 their color, and the bar no ratio below 0.
    data["ratio"][0, 2, 1] = 9.0
    far = panels(grid_figure(data))[1].patches[0].get_facecolor()
    assert far[2] - far[0] > 0.3
    # A bar for each panel.
    assert len(figure.axes) == 2 * len(panels(figure))


def test_text_stays_readable():
    """The contrast of WCAG 2 is at least 4.5 in every cell."""

    def luminance(color: Any) -> float:
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return float(np.dot((0.2126, 0.7152, 0.0722), parts))

    axes = grid_figure(grid(diverged=True)).axes[0]
    patches = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len({patch.get_facecolor() for patch in patches}) == 6
    for patch, text in zip(patches, axes.texts, strict=True):
        low, high = sorted(luminance(x) for x in (patch.get_facecolor(), text.get_color()))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_a_run_that_diverged_or_was_not_measured_says_so():
    data = grid(diverged=True)
    data["sharpness"][0, 0, 0] = np.nan
    data["test_error"] = 0 * data["ratio"] + 0.0625
    figure = draw(grid_figure(data))
    assert [axes.get_title(loc="left") for axes in panels(figure)][2] == "test error"
    assert cells(figure.axes[0])[0, 0] == "–"
    assert cells(figure.axes[1])[0, 0] == "0.99"
    assert [cells(axes)[1, 2] for axes in panels(figure)] == ["diverged\nat 41"] * 3
    assert cells(figure.axes[2])[0, 0] == "0.0625"


def test_a_grid_of_which_all_diverged_is_drawn():
    data = grid()
    data["diverged_at"][:] = 41
    figure = draw(grid_figure(data))
    assert [set(cells(axes).values()) for axes in panels(figure)] == [{"diverged\nat 41"}] * 2


def test_errors_that_are_nearly_the_same_look_so():
    data = grid()
    data["test_error"] = 0.05 + 0 * data["ratio"]
    data["test_error"][0, 0, 0] = 0.051
    patches = grid_figure(data[["test_error", "diverged_at"]]).axes[0].patches
    colors = np.array([patch.get_facecolor() for patch in patches])
    assert 0 < np.abs(colors[0] - colors[1]).max() < 0.1


@pytest.mark.parametrize(
    ("chosen", "shape", "name"),
    [({"lr": [1]}, (1, 2), "η"), ({"beta2": [1]}, (3, 1), "η"), ({"lr": 1}, (1, 2), "")],
)
def test_one_of_the_two_may_have_one_value(chosen: Any, shape: tuple[int, int], name: str):
    axes = draw(grid_figure(grid().isel(chosen))).axes[0]
    assert (len(axes.get_yticks()), len(axes.get_xticks())) == shape
    assert axes.get_ylabel() == name
    assert axes.texts[0].get_text() == ("200" if "beta2" in chosen else "300")


def test_refusals():
    with pytest.raises(ValueError, match=r"sweeps \[\], but a grid figure draws"):
        grid_figure(grid().isel(lr=0, beta2=0))
    three = xr.concat([grid(), grid()], "eps").assign_coords(eps=[1e-7, 1e-3])
    with pytest.raises(ValueError, match=r"isel\("):
        grid_figure(three)
    with pytest.raises(ValueError, match="track one of them"):
        grid_figure(grid()[["diverged_at"]].assign_coords(step=STEPS))
