"""E4: the same plateau under every architecture."""

from collections.abc import Sequence
from typing import Any

from aeoskit_experiments._errors import unknown
from aeoskit_experiments.catalog import data_folder
from aeoskit_experiments.pipelines import (
    Pipeline,
    Stage,
    data,
    loss,
    model,
    optimizer,
    pipe,
    plot,
    track,
    train,
)
from aeoskit_experiments.recipes._registry import recipe
from aeoskit_experiments.recipes._settings import (
    EPS,
    PAPER_STEPS,
    Dataset,
    Size,
    halvings,
    images,
)

# For each case: the model and its settings, the data if they are not images, learning rate, steps.
_Case = tuple[str, dict[str, Any], tuple[str, dict[str, Any]] | None, float, int]

_CHAIN = ("markov", {"examples": 64, "length": 16, "vocabulary": 16})
# Random answers to that many questions take about 200 steps to memorize, the last ones unsteadily;
# right ones, or fewer, are fitted before the edge is reached.
_PAIRS = ("sorting", {"pairs": True, "examples": 512, "label_noise": 1.0})

_SMALL: dict[str, _Case] = {
    "mlp": ("mlp", {"width": 64, "depth": 2}, None, 3e-3, 1000),
    "cnn": ("cnn", {"channels": 16, "depth": 2}, None, 3e-3, 600),
    "vgg": ("vgg", {"channels": 8}, None, 3e-3, 500),
    "resnet": ("resnet", {"channels": 8, "blocks": 1}, None, 1e-2, 300),
    "resnet-batch": ("resnet", {"channels": 8, "blocks": 1, "norm": "batch"}, None, 1e-2, 300),
    "wide_resnet": ("wide_resnet", {"channels": 4, "widen": 2}, None, 1e-2, 300),
    "vit": ("vit", {"width": 16}, None, 3e-3, 500),
    "lstm": ("lstm", {"width": 32}, None, 1e-2, 500),
    # Fewer sequences are memorized within some hundred steps, and the run leaves the edge.
    "lstm-tokens": ("lstm", {"width": 32}, ("markov", {**_CHAIN[1], "examples": 256}), 3e-3, 1000),
    "transformer": ("transformer", {"width": 32}, _CHAIN, 3e-3, 400),
    "transformer-text": (
        "transformer",
        {"width": 32},
        ("text", {"examples": 64, "length": 32}),
        3e-3,
        400,
    ),
    "encoder_decoder": ("encoder_decoder", {"width": 32, "layers": 1}, _PAIRS, 3e-3, 250),
}
_TEXT = ("wikitext", {"examples": 4096, "length": 128, "tokenizer": "bpe", "vocabulary": 4096})
_PAPER: dict[str, _Case] = {
    "mlp": ("mlp", {"width": 200, "depth": 5}, None, 1e-4, PAPER_STEPS),
    "cnn": ("cnn", {"channels": 64, "depth": 3}, None, 1e-4, PAPER_STEPS),
    "vgg": ("vgg", {"channels": 64}, None, 1e-4, PAPER_STEPS),
    "resnet": ("resnet", {}, None, 1e-4, PAPER_STEPS),
    "resnet-batch": ("resnet", {"norm": "batch"}, None, 1e-4, PAPER_STEPS),
    "wide_resnet": ("wide_resnet", {"depth": 16, "widen": 4}, None, 1e-4, PAPER_STEPS),
    "vit": ("vit", {"width": 192, "depth": 6, "heads": 3}, None, 1e-4, PAPER_STEPS),
    "lstm": ("lstm", {"width": 256}, None, 1e-4, PAPER_STEPS),
    "lstm-tokens": ("lstm", {"width": 512}, _TEXT, 3e-4, PAPER_STEPS),
    "transformer": (
        "transformer",
        {"layers": 6, "heads": 8, "width": 256},
        ("markov", {"examples": 4096, "length": 128, "vocabulary": 256}),
        3e-4,
        PAPER_STEPS,
    ),
    "transformer-text": (
        "transformer",
        {"layers": 6, "heads": 8, "width": 256},
        _TEXT,
        3e-4,
        PAPER_STEPS,
    ),
    "encoder_decoder": (
        "encoder_decoder",
        {"layers": 3, "heads": 8, "width": 256},
        ("sorting", {"pairs": True, "examples": 4096, "length": 32, "label_noise": 1.0}),
        3e-4,
        PAPER_STEPS,
    ),
}


@recipe
def e04_architectures(
    *,
    size: Size = "small",
    architecture: str | Sequence[str] = tuple(_SMALL),
    lr: float | None = None,
    steps: int | None = None,
    every: int = 10,
    dataset: Dataset | None = None,
    examples: int | None = None,
    wikitext: str | None = None,
    seed: int = 0,
) -> dict[str, Pipeline]:
    """Adam under many architectures: the same plateau at 38/lr (E4).

    Args:
        size: Small (digits and procedural sequences) or the paper's, on CIFAR-10 and WikiText.
        architecture: Architectures, one after the other.
        lr: Learning rate of all of them; none for each one's own, at which it reaches the edge.
        steps: Steps of full-batch training; none for each one's own.
        every: Steps between two measurements.
        dataset: The images, digits or cifar10 by the size; sequences are each network's own.
        examples: Number of images or sequences.
        wikitext: WikiText's folder or zip at the paper's size; none for the data folder.
        seed: Seed of data and initial parameters.
    """
    names = (architecture,) if isinstance(architecture, str) else tuple(architecture)
    cases = _SMALL if size == "small" else _PAPER
    suite = {}
    for name in names:
        if name not in cases:
            raise unknown("architecture", name, cases)
        network, settings, sequences, rate, length = cases[name]
        if network == "cnn" and dataset is not None:
            settings = {**settings, "depth": min(settings["depth"], halvings(dataset))}
        suite[name] = pipe(
            _data(size, dataset, sequences, examples, wikitext, seed),
            model(network, seed=seed, **settings),
            loss("mse" if size == "small" and sequences is None else "cross_entropy"),
            optimizer("adam", lr=rate if lr is None else lr, beta2=0.99, eps=EPS[size]),
            track("preconditioned_sharpness", every=every),
            train(length if steps is None else steps),
            plot("edge"),
        )
    return suite


def _data(
    size: str,
    dataset: str | None,
    sequences: tuple[str, dict[str, Any]] | None,
    examples: int | None,
    wikitext: str | None,
    seed: int,
) -> Stage:
    if sequences is None:
        return images(size, seed, dataset=dataset, examples=examples, small_examples=200)
    name, settings = sequences
    taken: dict[str, Any] = {} if examples is None else {"examples": examples}
    if name == "wikitext":
        taken["path"] = str(data_folder() / "wikitext") if wikitext is None else wikitext
    return data(name, **{**settings, **taken}, seed=seed)
