"""The text that every Python has: the topics of its help."""

import functools
import hashlib
import platform

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import AtLeastTwo, Count, Fraction, Seed

from ._dataset import TokenDataset
from ._sequences import check_at_least, check_draw
from ._text import windows_of
from ._tokenizers import Tokenizer, check_tokenizer


def topics(
    *,
    tokenizer: Tokenizer = "bytes",
    vocabulary: AtLeastTwo | None = None,
    examples: Count = 64,
    length: Count = 64,
    label_noise: Fraction = 0.0,
    seed: Seed = 0,
) -> TokenDataset:
    """Windows of Python's own help on its language, ten times as long as the text of `data text`.

    It is `pydoc_data/topics.py`: English prose with some code, 465,048 characters in Python 3.11.7,
    under Python's license. Other versions of Python have another text, so a run's record has its
    length and SHA-256.

    Args:
        tokenizer: The text's bytes; or bpe, pairs of bytes merged where they are frequent in this
            text (needs the extra text).
        vocabulary: Number of bpe tokens, 512 if not given; bytes are always 256.
        examples: Number of windows, drawn at random; none overlaps another.
        length: Number of predicted tokens in a window.
        label_noise: Fraction of the targets replaced by uniformly random tokens.
        seed: Seed of the draw of the windows and of the random targets.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's windows.

    Raises:
        UserError: if this Python has no such text, a number is out of its range, or bpe is not
            installed.

    Example:
        >>> data = topics(examples=2000, length=100)
        >>> data.inputs.shape, data.vocabulary
        ((2000, 100), 256)
    """
    check_at_least(1, examples=examples, length=length)
    check_draw(seed, label_noise)
    check_tokenizer(tokenizer, vocabulary)
    read, name = read_topics()
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


@functools.cache
def read_topics() -> tuple[str, str]:
    """The topics in the order of their names, and the text's name with its length and SHA-256.

    Raises:
        UserError: if this Python has been installed without them.
    """
    try:
        from pydoc_data.topics import topics as found
    except ModuleNotFoundError as error:
        raise UserError(
            "data topics is the text of pydoc_data/topics.py, which this Python lacks: install "
            "Python's whole standard library, or take data text"
        ) from error
    read = "\n".join(found[topic] for topic in sorted(found))
    digest = hashlib.sha256(read.encode()).hexdigest()
    version = platform.python_version()
    return read, f"the topics of Python {version} ({len(read):,} characters, sha256:{digest})"
