"""Pairs of lines, such as translations: in two files, or in two columns of one."""

import logging
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.catalog import expanded
from aeoskit_experiments.options import AtLeastTwo, Count, Fraction, Seed

from ._dataset import PairDataset
from ._sequences import BEGIN, END, PADDING, check_at_least, check_draw, noisy
from ._text_files import decode, read_file
from ._tokenizers import Tokenizer, check_tokenizer, make_encoder

_SPECIAL = 3


def parallel(
    *,
    source: str,
    target: str | None = None,
    tokenizer: Tokenizer = "bytes",
    vocabulary: AtLeastTwo | None = None,
    examples: Count = 64,
    length: Count = 64,
    label_noise: Fraction = 0.0,
    seed: Seed = 0,
) -> PairDataset:
    """Pairs of lines, of which the second is predicted from the first: translations, for example.

    Both sides share one vocabulary, end with an end token, and are padded to `length`. Pairs with
    an empty or a longer side are left out, and their number is logged.

    Args:
        source: A UTF-8 file, one sentence per line; or one with both sides in each line, with a tab
            between them.
        target: The file with the other sides, with as many lines; if not given, they are in the
            first.
        tokenizer: The lines' bytes; or bpe, pairs of bytes merged where they are frequent on both
            sides (needs the extra text).
        vocabulary: Number of bpe tokens, 512 if not given; bytes are always 256; three special
            tokens are added.
        examples: Number of pairs, drawn at random without replacement.
        length: Largest number of tokens of a side, including the end token.
        label_noise: Fraction of the targets replaced by uniformly random tokens.
        seed: Seed of the draw of the pairs and of the random targets.

    Returns:
        The data set, in which token 0 is padding, 1 begins the answer and 2 ends a side. A larger
        `examples` with the same seed contains the smaller one's pairs.

    Raises:
        UserError: if a file is missing or not UTF-8, sides are missing, too few pairs are short
            enough, a number is out of its range, or bpe is not installed.
    """
    check_at_least(1, examples=examples)
    check_at_least(2, length=length)
    check_draw(seed, label_noise)
    check_tokenizer(tokenizer, vocabulary)
    sides = _columns(source) if target is None else _two_files(source, target)
    name = repr(source) if target is None else f"{source!r} with {target!r}"
    encoder = make_encoder(tokenizer, [*sides[0], *sides[1]], vocabulary, name)
    sources, targets = (encoder.encode(side) for side in sides)
    kept = _kept(sources, targets, length, name)
    if examples > len(kept):
        raise UserError(
            f"examples is {examples}: {name} has {len(kept)} pairs of at most {length} tokens a "
            f"side (of {len(sources)}), so ask for at most {len(kept)}, or raise length"
        )
    taken = kept[np.random.default_rng(seed).permutation(len(kept))[:examples]]
    given = _padded([sources[i] for i in taken], length)
    target_tokens = _padded([targets[i] for i in taken], length)
    begin = np.full((examples, 1), BEGIN, np.int32)
    # The end token is predicted, and so is not an input.
    known = np.where(target_tokens == END, PADDING, target_tokens)[:, :-1]
    real = target_tokens != PADDING
    span = (_SPECIAL, _SPECIAL + encoder.vocabulary)
    drawn = noisy(jnp.asarray(target_tokens), label_noise, seed, span)
    return PairDataset(
        inputs=(jnp.asarray(given), jnp.asarray(np.concatenate([begin, known], axis=1))),
        targets=(jnp.where(real, drawn, PADDING), jnp.asarray(real, jnp.float32)),
        vocabulary=span[1],
    )


def _two_files(source: str, target: str) -> tuple[list[str], list[str]]:
    first, second = _lines(source, "source"), _lines(target, "target")
    if len(first) != len(second):
        raise UserError(
            f"target is {target!r}: it has {len(second)} lines and {source!r} has {len(first)}, "
            f"but their lines have to be pairs: give files of equal length"
        )
    return first, second


def _columns(source: str) -> tuple[list[str], list[str]]:
    first, second = [], []
    for number, line in enumerate(_lines(source, "source"), 1):
        # Some collections append the source of each pair.
        columns = line.split("\t")
        if len(columns) < 2:
            raise UserError(
                f"source is {source!r}: line {number} has no tab between two sides: fix it, or "
                f"name the file of the other sides as target"
            )
        first.append(columns[0])
        second.append(columns[1])
    return first, second


def _lines(path: str, option: str) -> list[str]:
    """A file's lines, split at newlines only, not at Unicode's other line separators."""
    read = decode(read_file(expanded(path, option), option), repr(path))
    lines = read.split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{option} is {path!r}: the file is empty")
    return [line.removesuffix("\r") for line in lines]


def _kept(
    sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], length: int, name: str
) -> np.ndarray:
    """The indices of the pairs whose two sides fit."""
    sizes = np.array([[len(s), len(t)] for s, t in zip(sources, targets, strict=True)])
    empty = (sizes == 0).any(axis=1)
    longer = (sizes + 1 > length).any(axis=1) & ~empty
    summary = f"of {len(sizes)} pairs, {longer.sum()} longer than {length} tokens"
    if empty.any():
        summary += f" and {empty.sum()} with an empty side"
    kept = np.flatnonzero(~empty & ~longer)
    if not len(kept):
        raise UserError(f"length is {length}: {name} has no pair that fits ({summary} left out)")
    if len(kept) < len(sizes):
        logging.getLogger(__name__).warning("data parallel: %s left out", summary)
    return kept


def _padded(sides: Sequence[np.ndarray], length: int) -> np.ndarray:
    padded = np.full((len(sides), length), PADDING, np.int32)
    for row, side in zip(padded, sides, strict=True):
        row[: len(side)] = side.astype(np.int32) + _SPECIAL
        row[len(side)] = END
    return padded
