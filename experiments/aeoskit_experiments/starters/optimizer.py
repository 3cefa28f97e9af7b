"""An optimizer: a new combination of aeoskit's rules, or any transformation of optax."""

import optax

import aeoskit as ak


def my_optimizer(lr: float, *, beta1: float = 0.9, beta2: float = 0.99) -> ak.Optimizer:
    """Averaged Nesterov momentum over the second moments of Adam.

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
    # The thresholds of optax's own transformations are known. For other transformations track
    # flip_multiplier, which needs no formula.
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(lr))
