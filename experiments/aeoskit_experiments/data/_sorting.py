"""Sequences and their sorted versions: a task for an encoder and a decoder."""

import jax
import jax.numpy as jnp

from aeoskit_experiments.options import AtLeastTwo, Count, Fraction, Seed

from ._dataset import PairDataset, TokenDataset
from ._sequences import BEGIN, check_at_least, check_draw, noisy


def sorting(
    *,
    examples: Count = 64,
    length: Count = 8,
    vocabulary: AtLeastTwo = 16,
    pairs: bool = False,
    label_noise: Fraction = 0.0,
    seed: Seed = 0,
) -> TokenDataset | PairDataset:
    """Sequences of uniformly random tokens, to be sorted in ascending order.

    For a decoder, an example is the sequence, a separator and the sequence sorted; only the tokens
    after the separator are predicted. For an encoder with a decoder it is the pair of both.

    Args:
        examples: Number of sequences.
        length: Number of tokens to sort.
        vocabulary: Number of different tokens to sort; the special tokens are added.
        pairs: Whether an example is a pair of sequences, for a model with an encoder, or a single
            one.
        label_noise: Fraction of the targets replaced by uniformly random tokens.
        seed: Seed of the draw.

    Returns:
        Sequences of `2 length` tokens, in which token `vocabulary` is the separator; or pairs, in
        which 0 is padding (there is none), 1 begins the answer, and the others come from 2 on. A
        larger `examples` with the same seed contains the smaller one's.

    Raises:
        UserError: if a number is out of its range.

    Example:
        >>> data = sorting(examples=1, length=3, vocabulary=9)
        >>> targets, weights = data.targets
        >>> data.inputs.tolist(), targets.tolist(), weights.tolist()
        ([[4, 3, 2, 9, 2, 3]], [[3, 2, 9, 2, 3, 4]], [[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    """
    check_at_least(1, examples=examples, length=length)
    check_at_least(2, vocabulary=vocabulary)
    check_draw(seed, label_noise)
    key = jax.random.key(seed)
    drawn = jax.random.randint(key, (examples, length), 0, vocabulary, jnp.int32)
    ordered = jnp.sort(drawn, axis=-1)
    if pairs:
        source, answer = drawn + BEGIN + 1, ordered + BEGIN + 1
        begin = jnp.full((examples, 1), BEGIN, jnp.int32)
        target_tokens = noisy(answer, label_noise, seed, (BEGIN + 1, BEGIN + 1 + vocabulary))
        return PairDataset(
            inputs=(source, jnp.concatenate([begin, answer[:, :-1]], axis=1)),
            targets=(target_tokens, jnp.ones((examples, length), jnp.float32)),
            vocabulary=BEGIN + 1 + vocabulary,
        )
    separator = jnp.full((examples, 1), vocabulary, jnp.int32)
    target_tokens = noisy(ordered, label_noise, seed, (0, vocabulary))
    weights = jnp.zeros((examples, 2 * length), jnp.float32).at[:, length:].set(1.0)
    return TokenDataset(
        inputs=jnp.concatenate([drawn, separator, ordered[:, :-1]], axis=1),
        targets=(jnp.concatenate([drawn[:, 1:], separator, target_tokens], axis=1), weights),
        vocabulary=vocabulary + 1,
    )
