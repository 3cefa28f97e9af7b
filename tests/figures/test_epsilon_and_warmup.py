from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex

from aeoskit.figures import epsilon_figure, warmup_figure
from aeoskit.figures._factors import darker

STEPS = np.arange(0, 300, 10)


def record(name: str, values: list[float]) -> xr.Dataset:
    """Runs whose raw sharpness comes to 19."""
    rise = np.broadcast_to(np.minimum(STEPS / 100, 1), (1, len(values), STEPS.size))
    dims = ("branch", name, "step")
    return xr.Dataset(
        {
            "ratio": (dims, rise),
            "sharpness": ((*dims, "index"), 19 * np.maximum(rise, 0.3)[..., None]),
            "threshold": (dims, 0 * rise + 380.0),
            "loss": (dims, 1.1 - rise),
            "learning_rate": (dims, 0.1 * rise),
        },
        {"branch": ["main"], name: values, "step": STEPS, "index": [0]},
    )


def draw(figure: Any) -> Any:
    figure.savefig("/dev/null", format="png")
    return figure


def lines(axes: Any, label: str) -> list[Any]:
    return [line for line in axes.lines if line.get_label() == label]


def labels(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_large_epsilon_has_its_level_of_raw_sharpness():
    figure = draw(epsilon_figure(record("eps", [1e-7, 0.05]), "e13-epsilon"))
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "λ₁(P⁻¹H) / threshold",
        "sharpness  λ₁(H)",
        "training loss",
    ]
    assert labels(figure) == ["ε = 1e-7", "ε = 0.05", "threshold · ε"]
    # 380 times 0.05; that of the small one is far below, and would squeeze the rest.
    (dashed,) = lines(figure.axes[1], "_threshold")
    assert dashed.get_ydata()[0] == pytest.approx(19)
    (run,) = lines(figure.axes[1], "ε = 0.05")
    assert to_hex(dashed.get_color()) == to_hex(darker(run.get_color()))
    assert figure.axes[1].get_ylim()[0] > 1
    assert figure.axes[0].lines[-1].get_ydata()[0] == 1


def test_epsilon_of_one_run_or_none():
    one = record("eps", [0.05]).isel(eps=0)
    assert len(lines(epsilon_figure(one).axes[1], "_threshold")) == 1
    small = epsilon_figure(record("eps", [1e-7, 1e-6]))
    assert labels(small) == ["ε = 1e-7", "ε = 1e-6"]
    with pytest.raises(ValueError, match="needs 'eps': sweep it"):
        epsilon_figure(record("lr", [0.1]))


def test_warmup_shows_the_learning_rate_of_each_run():
    figure = draw(warmup_figure(record("warmup", [0, 500]), "e11-warmup"))
    ratio, sharpness, rate = figure.axes
    assert ratio.get_ylabel() == "λ₁(P⁻¹H) / threshold at ηₜ"
    assert (sharpness.get_yscale(), rate.get_yscale()) == ("log", "linear")
    assert labels(figure) == ["warmup = 0", "warmup = 500"]
    (drawn,) = lines(rate, "warmup = 500")
    np.testing.assert_allclose(drawn.get_ydata()[:3], [0, 0.01, 0.02])
    assert to_hex(drawn.get_color()) == to_hex(lines(ratio, "warmup = 500")[0].get_color())
    assert rate.get_ylim()[0] == 0
    with pytest.raises(ValueError, match="needs 'learning_rate'"):
        warmup_figure(record("warmup", [0]).drop_vars("learning_rate"))
