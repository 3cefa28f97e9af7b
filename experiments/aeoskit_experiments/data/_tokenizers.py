"""From text to tokens: bytes, or frequent pairs of bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from aeoskit_experiments._errors import UserError

Tokenizer = Literal["bytes", "bpe"]

BYTES = 256
BPE_VOCABULARY = 512


@dataclass(frozen=True)
class Encoder:
    """The encoder of a tokenizer.

    Args:
        encode: from pieces of a text to the tokens of each.
        vocabulary: number of different tokens.
    """

    encode: Callable[[Sequence[str]], list[np.ndarray]]
    vocabulary: int


def check_tokenizer(tokenizer: str, vocabulary: int | None) -> None:
    """Raise a `UserError` for settings that are invalid for any text."""
    if tokenizer not in get_args(Tokenizer):
        raise UserError(
            f"tokenizer is {tokenizer!r}: it is one of {', '.join(get_args(Tokenizer))}"
        )
    if tokenizer == "bytes" and vocabulary not in (None, BYTES):
        raise UserError(
            f"vocabulary is {vocabulary}: there are {BYTES} bytes whatever the text, so leave it "
            f"out, or take tokenizer bpe"
        )
    if vocabulary is not None and vocabulary < BYTES:
        raise UserError(
            f"vocabulary is {vocabulary}: bpe begins with the {BYTES} bytes, so give at least "
            f"{BYTES}"
        )


def make_encoder(
    tokenizer: Tokenizer, pieces: Sequence[str], vocabulary: int | None, text: str
) -> Encoder:
    """The tokenizer of a text; the same text gives the same tokens.

    Args:
        tokenizer: bytes, or byte pairs that are merged, the most frequent ones first: Sennrich et
            al., *Neural machine translation of rare words with subword units* (2016), on bytes
            and within words, as GPT-2 does it.
        pieces: the text, in pieces; no token spans two of them.
        vocabulary: number of bpe tokens; None for 512.
        text: the text's name in errors.

    Raises:
        UserError: if the library for bpe is missing, or the text does not give that many tokens.
    """
    check_tokenizer(tokenizer, vocabulary)
    if tokenizer == "bytes":
        return Encoder(_bytes_of, BYTES)
    wanted = BPE_VOCABULARY if vocabulary is None else vocabulary
    try:
        import tokenizers
        from tokenizers import models, pre_tokenizers, trainers
    except ImportError as error:
        raise UserError(
            "tokenizer is bpe: the library tokenizers is not installed, so run "
            "`pip install 'aeoskit[text]'`, or take tokenizer bytes"
        ) from error
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=wanted,
        # A pair that occurs once is not informative.
        min_frequency=2,
        show_progress=False,
        # Every byte, in an order that is the same in every process.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    bpe.train_from_iterator(pieces, trainer)
    if (made := bpe.get_vocab_size()) < wanted:
        raise UserError(
            f"vocabulary is {wanted}: {text} has no more than {made} bytes and pairs that occur "
            f"twice, so give at most {made}"
        )

    def encode(pieces: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(found.ids, np.int32) for found in bpe.encode_batch_fast(list(pieces))]

    return Encoder(encode, wanted)


def _bytes_of(pieces: Sequence[str]) -> list[np.ndarray]:
    return [np.frombuffer(piece.encode(), np.uint8) for piece in pieces]
