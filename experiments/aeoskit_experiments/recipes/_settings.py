"""The common parts of the paper's experiments: the data and the network, each in two sizes.

`small` is our own setting, in which each effect appears within minutes on two cores: scikit-learn's
digits, with some random labels so that the edge is reached sooner and the curvature stays. `paper`
is the setting of arXiv 2207.14484 as far as it is known, on CIFAR-10; unknown settings (above all
the number of steps) are our choice.
"""

from collections.abc import Sequence
from typing import Any, Literal

from aeoskit_experiments.pipelines import Stage, data, loss, model

Size = Literal["small", "paper"]
Dataset = Literal["digits", "mnist5k", "fashion_mnist", "patches", "cifar10", "mixture"]
Floats = float | Sequence[float]
Ints = int | Sequence[int]

# The authors' ε, and ours on small data.
EPS = {"small": 1e-8, "paper": 1e-7}
PAPER_STEPS = 4000


def by_size(size: str, given: Any, *, small: Any, paper: Any) -> Any:
    """The given value, or the default of the size."""
    if given is not None:
        return given
    return paper if size == "paper" else small


# Sets that are small whatever the size, and those that are at the small size; all of them have
# random labels.
_SMALL, _EITHER = ("digits", "mnist5k"), ("fashion_mnist", "patches")
# For CIFAR-10 the training set, for a mixture the same number; of Fashion-MNIST as many as of
# MNIST, which two cores can train on; for digits the experiment's own.
_ALL = {
    "mnist5k": 5000,
    "fashion_mnist": 5000,
    "patches": 5700,
    "cifar10": 50_000,
    "mixture": 50_000,
}


def is_small(size: str, dataset: str) -> bool:
    """True if a data set has our small setting at this size.

    >>> is_small("small", "fashion_mnist"), is_small("paper", "fashion_mnist")
    (True, False)
    """
    return dataset in _SMALL or (size == "small" and dataset in _EITHER)


def has_random_labels(dataset: str) -> bool:
    """True if some or all labels are random: fitted data end a stay at the edge.

    Correct labels of 5,000 clothes are fitted within 110 to 1,100 steps of the paper's network, at
    the small learning rates before the edge is reached.

    >>> has_random_labels("fashion_mnist"), has_random_labels("cifar10")
    (True, False)
    """
    return dataset in (*_SMALL, *_EITHER)


def examples_of(size: str, dataset: str | None, examples: int | None, small: int = 500) -> int:
    """The number of images that `images` takes."""
    name = by_size(size, dataset, small="digits", paper="cifar10")
    return _ALL.get(name, small) if examples is None else examples


def halvings(dataset: str) -> int:
    """The most halvings of the images by a CNN: three of 8 and 32 pixels, two of 28."""
    return 2 if dataset in ("mnist5k", "fashion_mnist") else 3


def images(
    size: str,
    seed: int,
    *,
    dataset: str | None = None,
    examples: Any = None,
    label_noise: Any = None,
    test: int = 0,
    small_examples: int = 500,
    small_noise: float = 0.4,
) -> Stage:
    """The stage `data` of an experiment on images.

    CIFAR-10 and a mixture have all 50,000 images, Fashion-MNIST 5,000, MNIST those of its 5,000
    that are not test rows, patches all that are not of the test region; digits have the
    experiment's small setting, and the other small sets its label noise.
    """
    name = by_size(size, dataset, small="digits", paper="cifar10")
    settings: dict[str, Any] = {"seed": seed}
    if name == "digits":
        settings["examples"] = small_examples
    if has_random_labels(name):
        settings["label_noise"] = small_noise
    if name == "fashion_mnist":
        settings["examples"] = _ALL[name]
    if name == "mixture":
        settings |= {"shape": "32x32x3", "examples": _ALL[name]}
    if name == "mnist5k" and test:
        settings["examples"] = _ALL[name] - test  # it has no separate test set
    if examples is not None:
        settings["examples"] = examples
    if label_noise is not None:
        settings["label_noise"] = label_noise
    if test:
        settings["test"] = test
    return data(name, **settings)


def fully_connected(size: str, seed: int, *, width: Any = None, depth: Any = None) -> Stage:
    """The paper's network, five layers of 200, or one for small data; tanh, `N(0, 1/fan_in)`."""
    return model(
        "mlp",
        width=by_size(size, width, small=64, paper=200),
        depth=by_size(size, depth, small=2, paper=5),
        activation="tanh",
        seed=seed,
    )


def loss_of(size: str) -> Stage:
    """Cross-entropy as in the paper; on small data squared error, whose curvature stays."""
    return loss("cross_entropy" if size == "paper" else "mse")
