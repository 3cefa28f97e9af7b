"""An optimizer: one of aeoskit's, put together anew, or any transformation of optax."""

import optax

import aeoskit as ak


def my_optimizer(lr: float, *, beta1: float = 0.9, beta2: float = 0.99) -> ak.Optimizer:
    """Nesterov's momentum, as an average, over the second moments of Adam.

    Args:
        lr: Learning rate.
        beta1: Momentum.
        beta2: Decay of the second moments.
    """
    # The momentum rule sets the threshold, the preconditioner the metric: both are known then.
    return ak.Optimizer(lr, ak.optimizers.EMANesterov(beta1), ak.RMS(beta2))


def my_transformation(lr: float, *, clip: float = 1.0) -> optax.GradientTransformation:
    """Adam of optax with clipped gradients.

    Args:
        lr: Learning rate.
        clip: Largest norm of a gradient.
    """
    # Of what optax ships, the threshold is read. Of other transformations it is not known: track
    # flip_multiplier then, which asks for no formula.
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(lr))
