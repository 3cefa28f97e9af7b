"""Pieces of two photographs that scikit-learn ships: color images of CIFAR's shape."""

from typing import Annotated

import numpy as np
from einops import rearrange
from jaxtyping import Int, UInt8

from aeoskit_experiments.options import Fraction, Seed, at_most

from ._dataset import Dataset
from ._prepare import Images, Standardize, prepare
from ._scikit_learn import shipped

_PHOTOGRAPHS = ("china.jpg", "flower.jpg")  # 427×640 pixels each
_SIDE, _STRIDE = 32, 8
# Patches are trained on if they are left of this column, and tested on if they are right of it.
_BORDER = 480


def patches(
    *,
    examples: Annotated[
        int, at_most(5_700, least=1, reason="the two photographs have 5700 patches to train on")
    ] = 5700,
    label_noise: Fraction = 0.0,
    standardize: Standardize = "channel",
    seed: Seed = 0,
    test: Annotated[
        int, at_most(1_700, least=0, reason="the two photographs have 1700 patches to test on")
    ] = 0,
) -> Dataset:
    """Patches of 32×32 pixels from two color photographs, each turned: by how much is its class.

    The classes are the turns by 0, 90, 180 and 270 degrees (counterclockwise), a self-supervised
    task; with `label_noise=1` the labels are random. The photographs are scikit-learn's china.jpg
    and flower.jpg. A patch begins at every eighth pixel of every eighth row, so neighbors overlap;
    but training patches are from the left three quarters of the photographs and test patches from
    the right quarter, so that no pixel is in both. Decoders of JPEG may differ in a pixel's last
    bit, so a run's record has Pillow's version.

    Source of the task: Gidaris et al., *Unsupervised representation learning by predicting image
    rotations* (2018), arXiv:1803.07728.

    Args:
        examples: Number of patches, drawn at random without replacement.
        label_noise: Fraction of the labels replaced by uniformly random ones; 1 is all random.
        standardize: Mean 0 and variance 1 for the channel, for each pixel, or not at all.
        seed: Seed of the draw of the patches and of the random labels.
        test: Number of patches of the test region that are kept as test rows.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's patches.

    Raises:
        UserError: if a number is out of its range.

    Example:
        >>> data = patches(examples=20, test=5)
        >>> data.inputs.shape, data.image_shape, data.num_classes, data.test_inputs.shape
        ((20, 3072), (32, 32, 3), 4, (5, 3072))
    """
    return prepare(
        read_patches(),
        examples=examples,
        label_noise=label_noise,
        standardize=standardize,
        seed=seed,
        test=test,
    )


def read_patches() -> Images:
    """All of the patches."""
    from PIL import Image

    parts = []
    for name in _PHOTOGRAPHS:
        with Image.open(shipped("images") / name) as image:
            pixels = np.asarray(image.convert("RGB"))
        parts.append((pixels[:, :_BORDER], pixels[:, _BORDER:]))
    train, test = (
        np.concatenate([_cut(part) for part in side]) for side in zip(*parts, strict=True)
    )
    (train, labels), (test, test_labels) = _turned(train), _turned(test)
    shape = (_SIDE, _SIDE, 3)
    return Images("patches", train, labels, 255.0, 4, shape, test, test_labels)


def _cut(photograph: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "n side side 3"]:
    windows = np.lib.stride_tricks.sliding_window_view(photograph, (_SIDE, _SIDE), axis=(0, 1))
    return rearrange(windows[::_STRIDE, ::_STRIDE], "i j c h w -> (i j) h w c")


def _turned(
    cut: UInt8[np.ndarray, "n side side 3"],
) -> tuple[UInt8[np.ndarray, "n features"], Int[np.ndarray, " n"]]:
    """Each patch turned by a class that is drawn for it, the same in every run."""
    labels = np.random.default_rng(0).integers(4, size=len(cut))
    turned = np.stack([np.rot90(patch, turns) for patch, turns in zip(cut, labels, strict=True)])
    return rearrange(turned, "n h w c -> n (h w c)"), labels
