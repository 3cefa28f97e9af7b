"""The user's text, or one that scikit-learn ships."""

import numpy as np

from aeoskit_experiments.options import AtLeastTwo, Count, Fraction, Seed

from ._dataset import TokenDataset
from ._sequences import check_at_least, check_draw, shifted, windows
from ._text_files import embedded_text, read_text
from ._tokenizers import Tokenizer, check_tokenizer, make_encoder


def text(
    *,
    path: str | None = None,
    tokenizer: Tokenizer = "bytes",
    vocabulary: AtLeastTwo | None = None,
    examples: Count = 64,
    length: Count = 64,
    label_noise: Fraction = 0.0,
    seed: Seed = 0,
) -> TokenDataset:
    """Windows of a text, in which each next byte, or byte pair, is predicted.

    Without a path, the text is that of scikit-learn's descriptions of data sets, 43,055 bytes of
    English in version 1.9.1, under its license (BSD, 3 clauses).

    Args:
        path: A UTF-8 file, or a folder whose .txt and .tokens files form one text in the order of
            their names; if not given, scikit-learn's descriptions of data sets.
        tokenizer: A text's bytes; or bpe, pairs of bytes merged where they are frequent in this
            text (needs the extra text).
        vocabulary: Number of bpe tokens, 512 if not given; bytes are always 256.
        examples: Number of windows, drawn at random; none overlaps another.
        length: Number of predicted tokens in a window.
        label_noise: Fraction of the targets replaced by uniformly random tokens.
        seed: Seed of the draw of the windows and of the random targets.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's windows.

    Raises:
        UserError: if there is no such text, it is not UTF-8 or too short, a number is out of its
            range, or bpe is not installed.

    Example:
        >>> data = text(examples=2, length=40)
        >>> data.inputs.shape, data.vocabulary, bytes(data.inputs[0].tolist()).isascii()
        ((2, 40), 256, True)
    """
    check_at_least(1, examples=examples, length=length)
    check_draw(seed, label_noise)
    check_tokenizer(tokenizer, vocabulary)
    read, name = embedded_text() if path is None else (read_text(path), repr(path))
    return windows_of(
        read,
        name,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        examples=examples,
        length=length,
        label_noise=label_noise,
        seed=seed,
    )


def windows_of(
    read: str,
    name: str,
    *,
    tokenizer: Tokenizer,
    vocabulary: int | None,
    examples: int,
    length: int,
    label_noise: float,
    seed: int,
) -> TokenDataset:
    """The data set of a text, called `name` in errors."""
    # In lines, so that bpe uses several cores.
    pieces = [read] if tokenizer == "bytes" else read.splitlines(keepends=True)
    encoder = make_encoder(tokenizer, pieces, vocabulary, name)
    ids = np.concatenate([np.zeros(0, np.uint8), *encoder.encode(pieces)])
    drawn = windows(ids, length=length, examples=examples, seed=seed, text=name)
    return shifted(drawn, encoder.vocabulary, label_noise, seed)
