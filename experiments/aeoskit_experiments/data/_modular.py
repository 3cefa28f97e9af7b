"""Arithmetic modulo a number: the data on which networks were seen to grok."""

from typing import Annotated, Literal, get_args

import jax
import jax.numpy as jnp

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import Count, Fraction, Seed, at_most

from ._dataset import TokenDataset
from ._sequences import check_at_least, check_draw, noisy

Operation = Literal["add", "subtract", "multiply"]

# Its square, the number of pairs, is the length of one permutation.
LARGEST_MODULUS = 4096


def modular(
    *,
    modulus: Annotated[
        int, at_most(4_096, least=2, reason="all of its square of pairs are drawn")
    ] = 31,
    operation: Operation = "add",
    examples: Count | None = None,
    label_noise: Fraction = 0.0,
    seed: Seed = 0,
) -> TokenDataset:
    """Equations `a + b = c` modulo a number, of which the answer `c` is predicted.

    An equation is the five tokens `a`, `+`, `b`, `=` and `c`. The literature takes a prime modulus,
    97, and trains on a part of the pairs.

    Source: Power et al., *Grokking: generalization beyond overfitting on small algorithmic
    datasets* (2022), arXiv:2201.02177, section 3.

    Args:
        modulus: Numbers are from 0 to one below it.
        operation: The operation: add, subtract or multiply.
        examples: Number of pairs, drawn at random without replacement; all of them, if not given.
        label_noise: Fraction of the answers replaced by uniformly random numbers.
        seed: Seed of the draw of the pairs and of the random answers.

    Returns:
        The data set: tokens below `modulus` are numbers, followed by the operation and the equals
        sign. A larger `examples` with the same seed contains the smaller one's pairs.

    Raises:
        UserError: if a number is out of its range.

    Example:
        >>> data = modular(modulus=5, examples=1, seed=1)
        >>> targets, weights = data.targets
        >>> data.inputs.tolist(), targets.tolist(), weights.tolist()
        ([[3, 5, 4, 6]], [[5, 4, 6, 2]], [[0.0, 0.0, 0.0, 1.0]])
    """
    check_at_least(2, modulus=modulus)
    if modulus > LARGEST_MODULUS:
        raise UserError(
            f"modulus is {modulus}: all of its square of pairs are drawn, so give at most "
            f"{LARGEST_MODULUS}"
        )
    if operation not in get_args(Operation):
        raise UserError(
            f"operation is {operation!r}: it is one of {', '.join(get_args(Operation))}"
        )
    if examples is not None and not 1 <= examples <= modulus**2:
        raise UserError(
            f"examples is {examples}: there are {modulus**2} pairs of numbers below {modulus}, ask "
            f"for 1 to {modulus**2}"
        )
    check_draw(seed, label_noise)
    taken = jax.random.permutation(jax.random.key(seed), modulus**2)[:examples].astype(jnp.int32)
    a, b = taken // modulus, taken % modulus
    c = {"add": a + b, "subtract": a - b, "multiply": a * b}[operation] % modulus
    sign, equals = jnp.full_like(a, modulus), jnp.full_like(a, modulus + 1)
    target_tokens = noisy(c, label_noise, seed, (0, modulus))
    weights = jnp.zeros((len(a), 4), jnp.float32).at[:, -1].set(1.0)
    return TokenDataset(
        inputs=jnp.stack([a, sign, b, equals], axis=1),
        targets=(jnp.stack([sign, b, equals, target_tokens], axis=1), weights),
        vocabulary=modulus + 2,
    )
