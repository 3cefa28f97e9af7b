"""WikiText, from the user's own files."""

from pathlib import Path
from typing import Literal, get_args

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.catalog import expanded
from aeoskit_experiments.options import AtLeastTwo, Count, Fraction, Seed

from ._dataset import TokenDataset
from ._sequences import check_at_least, check_draw
from ._text import windows_of
from ._text_files import decode, read_file, read_member
from ._tokenizers import Tokenizer, check_tokenizer

Split = Literal["train", "valid", "test"]


def wikitext(
    *,
    path: str,
    split: Split = "train",
    tokenizer: Tokenizer = "bytes",
    vocabulary: AtLeastTwo | None = None,
    examples: Count = 64,
    length: Count = 64,
    label_noise: Fraction = 0.0,
    seed: Seed = 0,
) -> TokenDataset:
    """Windows of WikiText-2 or WikiText-103, from your folder or .zip.

    Source: Merity et al., *Pointer sentinel mixture models* (2017), arXiv:1609.07843, section 4.

    Args:
        path: The .zip, or the folder, with wiki.train.raw (or wiki.train.tokens) in it or in a
            folder below it.
        split: One of its three parts.
        tokenizer: The text's bytes; or bpe, pairs of bytes merged where they are frequent in that
            part (needs the extra text).
        vocabulary: Number of bpe tokens, 512 if not given; bytes are always 256.
        examples: Number of windows, drawn at random; none overlaps another.
        length: Number of predicted tokens in a window.
        label_noise: Fraction of the targets replaced by uniformly random tokens.
        seed: Seed of the draw of the windows and of the random targets.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's windows.

    Raises:
        UserError: if the file is missing, the archive is broken, unsafe or encrypted, the text is
            not UTF-8 or too short, a number is out of its range, or bpe is not installed.
    """
    check_at_least(1, examples=examples, length=length)
    check_draw(seed, label_noise)
    check_tokenizer(tokenizer, vocabulary)
    if split not in get_args(Split):
        raise UserError(f"split is {split!r}: it is one of {', '.join(get_args(Split))}")
    read, name = read_wikitext(path, split)
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


def read_wikitext(path: str, split: str) -> tuple[str, str]:
    """One of the parts, and its name in errors."""
    data, name = _part(expanded(path), split)
    return decode(data, name), name


def _part(path: Path, split: str) -> tuple[bytes, str]:
    names = (f"wiki.{split}.raw", f"wiki.{split}.tokens")
    if not path.exists():
        raise UserError(
            f"path is {str(path)!r}: there is no such file or folder; it is the .zip of WikiText, "
            f"or a folder with {names[0]}"
        )
    if path.is_file():
        data, name = read_member(path, names)
        return data, f"{path.name}'s {name}"
    for name in names:
        found = sorted([*path.glob(name), *path.glob(f"*/{name}")])
        if len(found) > 1:
            raise UserError(
                f"path is {str(path)!r}: it has {found[0].relative_to(path)} and "
                f"{found[1].relative_to(path)}, so name the folder of one of them"
            )
        if found:
            return read_file(found[0]), repr(str(found[0]))
    raise UserError(f"path is {str(path)!r}: the folder has no {' or '.join(names)}")
