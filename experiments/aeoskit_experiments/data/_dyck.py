"""Balanced brackets of several kinds: a language that takes a stack to predict."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import Count, Fraction, Seed

from ._dataset import TokenDataset
from ._sequences import check_at_least, check_draw, noisy


def dyck(
    *,
    examples: Count = 64,
    length: Count = 32,
    kinds: Count = 2,
    depth: Count = 4,
    label_noise: Fraction = 0.0,
    seed: Seed = 0,
) -> TokenDataset:
    """Balanced words of brackets, drawn uniformly from all that are no deeper than `depth`.

    A closing bracket has the kind of the last open one: a network has to keep a stack of them.

    Source: Hewitt et al., *RNNs can generate bounded hierarchical languages with optimal memory*
    (2020), arXiv:2010.07515: the language Dyck-(k, m).

    Args:
        examples: Number of words.
        length: Number of brackets in a word, an even number.
        kinds: Number of kinds of brackets.
        depth: Largest number of brackets that are open at once.
        label_noise: Fraction of the targets replaced by uniformly random brackets.
        seed: Seed of the draw.

    Returns:
        The data set: tokens below `kinds` open, the next `kinds` close in the same order, and token
        `2 kinds` begins each word, so that the whole word is predicted. A larger `examples` with
        the same seed contains the smaller one's words.

    Raises:
        UserError: if a number is out of its range, or `length` is odd.

    Example:
        >>> data = dyck(examples=2, length=8)
        >>> ["".join("([)]"[token] for token in word) for word in data.targets.tolist()]
        ['((([])))', '[(()[])]']
    """
    check_at_least(1, examples=examples, length=length, kinds=kinds, depth=depth)
    if length % 2:
        raise UserError(f"length is {length}: brackets come in twos, so give an even number")
    check_draw(seed, label_noise)
    opens = jnp.asarray(_probabilities(length, depth), jnp.float32)
    words = _words(jax.random.key(seed), opens, (examples, kinds))
    begin = jnp.full((examples, 1), 2 * kinds, jnp.int32)
    return TokenDataset(
        inputs=jnp.concatenate([begin, words[:, :-1]], axis=1),
        targets=noisy(words, label_noise, seed, (0, 2 * kinds)),
        vocabulary=2 * kinds + 1,
    )


def _probabilities(length: int, depth: int) -> Float[np.ndarray, "length heights"]:
    """The probability that a bracket opens, by position and by the number of open ones.

    The fraction of the possible continuations that go up. A kind is chosen for each opening
    bracket, of which every word has as many, so that kinds do not change the shares.
    """
    heights = min(depth, length // 2) + 1
    ends = np.zeros(heights)  # number of ways to complete a word, up to a factor
    ends[0] = 1
    shares = np.zeros((length, heights))
    for place in reversed(range(length)):
        up, down = np.append(ends[1:], 0), np.append(0, ends[:-1])
        total = up + down
        shares[place] = np.divide(up, total, where=total > 0, out=np.zeros(heights))
        ends = total / total.max()
    return shares


@functools.partial(jax.jit, static_argnums=2)
def _words(
    key: PRNGKeyArray, opens: Float[Array, "length heights"], sizes: tuple[int, int]
) -> Int[Array, "n length"]:
    (examples, kinds), (length, heights) = sizes, opens.shape
    of_places, of_kinds = jax.random.split(key)
    uniforms = jax.random.uniform(of_places, (examples, length), jnp.float32)
    drawn = jax.random.randint(of_kinds, (examples, length), 0, kinds, jnp.int32)
    rows = jnp.arange(examples)

    def step(
        carry: tuple[Int[Array, " n"], Int[Array, "n heights"]],
        given: tuple[Float[Array, " heights"], Float[Array, " n"], Int[Array, " n"]],
    ) -> tuple[tuple[Int[Array, " n"], Int[Array, "n heights"]], Int[Array, " n"]]:
        (height, stack), (share, uniform, kind) = carry, given
        up = uniform < share[height]
        token = jnp.where(up, kind, kinds + stack[rows, height - 1])
        # A closed bracket leaves its kind above the top, where the next one to open overwrites it.
        at = jnp.where(up, height, height - 1)
        stack = stack.at[rows, at].set(jnp.where(up, kind, stack[rows, at]))
        return (jnp.where(up, height + 1, height - 1), stack), token

    start = jnp.zeros(examples, jnp.int32), jnp.zeros((examples, heights), jnp.int32)
    _, words = jax.lax.scan(step, start, (opens, uniforms.T, drawn.T))
    return words.T
