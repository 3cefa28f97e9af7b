"""Synthetic sequences of tokens: drawn, not downloaded.

They are drawn by jax, so that `jax.eval_shape` gives their shapes without the data: a run on data
of any size can be planned on a machine where they would not fit.
"""

import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import AtLeastTwo, Count, Fraction, Positive, Seed, at_most

from ._dataset import TokenDataset
from ._sequences import check_at_least, check_draw, shifted

# A chain is a matrix of vocabulary² probabilities.
LARGEST_CHAIN = 4096
# Well below it, the transitions are uniform already.
_EVENEST = 1e9


def tokens(
    *,
    examples: Count = 64,
    length: Count = 32,
    vocabulary: AtLeastTwo = 32,
    label_noise: Fraction = 0.0,
    seed: Seed = 0,
) -> TokenDataset:
    """Sequences of tokens drawn uniformly and independently, which can only be memorized.

    Args:
        examples: Number of sequences.
        length: Number of predicted tokens in a sequence.
        vocabulary: Number of different tokens.
        label_noise: Fraction of the targets replaced by uniformly random tokens, which then differ
            from the next input.
        seed: Seed of the draw.

    Returns:
        The data set. A sequence's target is the sequence itself, shifted by one token. A larger
        `examples` with the same seed contains the smaller one's sequences.

    Raises:
        UserError: if a number is out of its range.

    Example:
        >>> data = tokens(examples=4, length=8)
        >>> data.inputs.shape, bool((data.inputs[:, 1:] == data.targets[:, :-1]).all())
        ((4, 8), True)
    """
    check_at_least(1, examples=examples, length=length)
    check_at_least(2, vocabulary=vocabulary)
    check_draw(seed, label_noise)
    key = jax.random.key(seed)
    drawn = jax.random.randint(key, (examples, length + 1), 0, vocabulary, jnp.int32)
    return shifted(drawn, vocabulary, label_noise, seed)


def markov(
    *,
    examples: Count = 64,
    length: Count = 32,
    vocabulary: Annotated[
        int, at_most(4_096, least=2, reason="a chain is a matrix of its square")
    ] = 32,
    concentration: Positive = 0.1,
    label_noise: Fraction = 0.0,
    seed: Seed = 0,
) -> TokenDataset:
    """Sequences of a random Markov chain: the next token depends on the present one alone.

    The chain's transition probabilities are one draw of a symmetric Dirichlet distribution for each
    token. No network predicts new sequences better than the chain itself, whose entropy is about
    1.7 nats a token with the defaults, against the 3.5 of a uniform guess; the training sequences
    can be fitted further, by memorization.

    Args:
        examples: Number of sequences, each from its own uniformly drawn first token.
        length: Number of predicted tokens in a sequence.
        vocabulary: Number of different tokens.
        concentration: Concentration of the Dirichlet distribution: near 0, few tokens can follow
            each one; from 1 on, nearly all can.
        label_noise: Fraction of the targets replaced by uniformly random tokens.
        seed: Seed of the chain and of the sequences.

    Returns:
        The data set. A sequence's target is the sequence itself, shifted by one token. A larger
        `examples` with the same seed contains the smaller one's sequences.

    Raises:
        UserError: if a number is out of its range.

    Example:
        >>> markov(examples=4, length=8).targets.shape
        (4, 8)
    """
    check_at_least(1, examples=examples, length=length)
    check_at_least(2, vocabulary=vocabulary)
    check_draw(seed, label_noise)
    if vocabulary > LARGEST_CHAIN:
        raise UserError(
            f"vocabulary is {vocabulary}: a chain is a matrix of its square, so give at most "
            f"{LARGEST_CHAIN}, or take data tokens"
        )
    if not 0 < concentration <= _EVENEST:
        raise UserError(
            f"concentration is {concentration}: it must be positive, and at most {_EVENEST:g}"
        )
    alpha = np.full(vocabulary, concentration)
    chain = np.random.default_rng(seed).dirichlet(alpha, size=vocabulary)
    cumulative = jnp.asarray(np.cumsum(chain, axis=1), jnp.float32)
    walks = _walk(jax.random.key(seed), cumulative, (examples, length + 1))
    return shifted(walks, vocabulary, label_noise, seed)


@functools.partial(jax.jit, static_argnums=2)
def _walk(
    key: PRNGKeyArray, cumulative: Float[Array, "vocabulary vocabulary"], sizes: tuple[int, int]
) -> Int[Array, "n tokens"]:
    """Random walks on the chain with these cumulative transition probabilities."""
    (examples, count), vocabulary = sizes, cumulative.shape[0]
    of_first, of_rest = jax.random.split(key)

    def step(
        at: Int[Array, " n"], uniform: Float[Array, " n"]
    ) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
        passed = cumulative[at] <= uniform[:, None]
        # Sums are rounded: the last one may be a little below 1.
        following = jnp.minimum(jnp.sum(passed, axis=-1, dtype=jnp.int32), vocabulary - 1)
        return following, following

    first = jax.random.randint(of_first, (examples,), 0, vocabulary, jnp.int32)
    uniforms = jax.random.uniform(of_rest, (examples, count - 1), jnp.float32)
    _, rest = jax.lax.scan(step, first, uniforms.T)
    return jnp.concatenate([first[:, None], rest.T], axis=1)
