"""The common parts of data sets of tokens: random targets, windows of a text, and checks."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from aeoskit_experiments._errors import UserError

from ._dataset import TokenDataset

# The special tokens of pairs of sequences, known to models and losses.
PADDING, BEGIN, END = 0, 1, 2

# Folded into a seed's key, so that noise does not change the other draws.
_NOISE = 2**31 - 1


def check_at_least(least: int, **values: int) -> None:
    """Raise a `UserError` for numbers below a minimum."""
    for name, value in values.items():
        if value < least:
            raise UserError(f"{name} is {value}: it must be at least {least}")


def check_seed(seed: int) -> None:
    """Raise a `UserError` for a seed that jax would truncate to another one."""
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}: it must be from 0 to {2**32 - 1}")


def check_draw(seed: int, label_noise: float) -> None:
    """Raise a `UserError` for an invalid seed or fraction of random targets."""
    check_seed(seed)
    if not 0 <= label_noise <= 1:
        raise UserError(f"label_noise is {label_noise}: give a fraction, from 0 to 1")


def noisy(
    targets: Int[Array, "n *length"], share: float, seed: int, span: tuple[int, int]
) -> Int[Array, "n *length"]:
    """Each target, with the probability `share`, replaced by a uniformly random token.

    Args:
        targets: the tokens to be predicted.
        share: from 0, which changes nothing, to 1.
        seed: the data set's seed; the draw of a row does not depend on the number of rows.
        span: the range of the replacements: the first token, and the one past the last.
    """
    if share == 0:
        return targets
    key = jax.random.fold_in(jax.random.key(seed), _NOISE)
    of_places, of_tokens = jax.random.split(key)
    replaced = jax.random.uniform(of_places, targets.shape, jnp.float32) < share
    return jnp.where(
        replaced, jax.random.randint(of_tokens, targets.shape, *span, jnp.int32), targets
    )


def shifted(
    drawn: Int[Array, "n tokens"], vocabulary: int, label_noise: float, seed: int
) -> TokenDataset:
    """Sequences whose targets are themselves, shifted by one token."""
    targets = noisy(drawn[:, 1:], label_noise, seed, (0, vocabulary))
    return TokenDataset(inputs=drawn[:, :-1], targets=targets, vocabulary=vocabulary)


def windows(
    ids: np.ndarray, *, length: int, examples: int, seed: int, text: str
) -> Int[Array, "n tokens"]:
    """Non-overlapping windows of `length` tokens and the token after them.

    Args:
        ids: the tokens of a whole text.
        length: number of tokens of a window, without the last target.
        examples: number of windows.
        seed: seed of the draw: a larger `examples` contains the smaller one's windows.
        text: the text's name in errors.

    Raises:
        UserError: if there is no window, or there are fewer.
    """
    if len(ids) < 2:
        raise UserError(f"{text} has {len(ids)} tokens: it takes two to predict one")
    count = (len(ids) - 1) // length
    if count < 1:
        raise UserError(
            f"length is {length}: {text} has {len(ids)} tokens, so give at most {len(ids) - 1}"
        )
    if examples > count:
        raise UserError(
            f"examples is {examples}: {text} has {count} windows of {length} tokens, so give at "
            f"most {count}"
        )
    first = length * np.random.default_rng(seed).permutation(count)[:examples]
    return jnp.asarray(ids[first[:, None] + np.arange(length + 1)], jnp.int32)
