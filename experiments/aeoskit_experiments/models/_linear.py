"""A linear map: with a squared error, a quadratic loss."""

from dataclasses import dataclass

from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from aeoskit_experiments.data import AnyDataset
from aeoskit_experiments.options import Positive

from ._model import Model, check_settings, draw_layer, rows_of


@dataclass(frozen=True)
class _Init:
    scale: float

    def __call__(self, key: PRNGKeyArray, dataset: AnyDataset) -> PyTree:
        rows = rows_of(dataset, "linear")
        shape = (rows.inputs.shape[1], rows.num_classes)
        return {"weight": draw_layer(key, shape, "lecun", self.scale)["weight"]}


def _apply(params: PyTree, inputs: Float[Array, "n features"]) -> Float[Array, "n classes"]:
    return inputs @ params["weight"]


def linear(*, scale: Positive = 1.0) -> Model:
    """A single matrix: with loss mse, a convex quadratic.

    Args:
        scale: Factor on the initial weights, which are `N(0, 1/fan_in)`.

    Returns:
        The model.

    Raises:
        UserError: if `scale` is not positive.

    Example:
        >>> import jax
        >>> from aeoskit_experiments.data import quadratic
        >>> data, model = quadratic(dimension=5), linear()
        >>> model.apply(model.init(jax.random.key(0), data), data.inputs).shape
        (5, 4)
    """
    check_settings("tanh", "lecun", scale)
    return Model(_Init(scale), _apply)
